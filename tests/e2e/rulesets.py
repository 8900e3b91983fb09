"""Rulesets of others, as they are found on nodes: firewalls, port maps, a second masquerading. For `nft -f`.

Each can be loaded again: it replaces its tables, and touches no other.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pytest

Family = Literal["ip", "ip6"]
FAMILIES: tuple[Family, Family] = ("ip", "ip6")


@dataclass(frozen=True, slots=True)
class Ruleset:
    """`tables`: with their families, as in "inet firewalld"."""

    tables: Sequence[str]
    text: str

    def load(self) -> None:
        nft(self._without() + self.text)

    def delete(self) -> None:
        nft(self._without())

    def _without(self) -> str:
        # a table is declared so that it may be absent
        return "".join(f"table {table}\ndelete table {table}\n" for table in self.tables)


@contextmanager
def loaded(*rulesets: Ruleset) -> Iterator[None]:
    """They are in force inside of it."""
    try:
        for one in rulesets:
            one.load()
        yield
    finally:
        for one in rulesets:
            one.delete()


def nft(text: str) -> None:
    """One transaction in the namespace we are in; the test is skipped if there is no nft to make it."""
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip("needs nft, to make what others make")
    done = subprocess.run([program, "-f", "-"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{text}"


def lines(rules: Sequence[str]) -> str:
    return "\n        ".join(rules)


# kube-proxy's, and of an older kubelet too
KUBE_POSTROUTING = """
    chain KUBE-POSTROUTING {
        meta mark & 0x4000 != 0x4000 counter return
        counter meta mark set meta mark ^ 0x4000
        counter masquerade fully-random
    }
    chain POSTROUTING { type nat hook postrouting priority srcnat; counter jump KUBE-POSTROUTING; }
"""
MASQUERADING = Ruleset(
    ["ip nat", "ip6 nat"], "".join(f"table {family} nat {{ {KUBE_POSTROUTING} }}\n" for family in FAMILIES)
)

# what firewalld 1.x and 2.x makes of a zone that takes nothing but ssh in, and lets nothing through
FIREWALLD = Ruleset(
    ["inet firewalld"],
    """
table inet firewalld {
    chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; }
    chain nat_OUTPUT { type nat hook output priority -90; }
    chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; }
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_IN_public {
        tcp dport 22 accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_IN_public
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        meta l4proto ipv6-icmp accept
        reject with icmpx admin-prohibited
    }
    chain filter_OUTPUT {
        type filter hook output priority filter + 10
        ct state { established, related } accept
        oifname "lo" accept
    }
}
""",
)
# while it reloads: nothing new comes in
FIREWALLD_RELOADING = Ruleset(
    ["inet firewalld_policy_drop"],
    "table inet firewalld_policy_drop {\n"
    + "".join(
        f"chain filter_{hook} {{ type filter hook {hook} priority filter + 9; policy drop;"
        " ct state { established, related } accept; meta l4proto ipv6-icmp accept; }\n"
        for hook in ("input", "forward", "output")
    )
    + "}\n",
)


def strict_firewall(accept: str) -> Ruleset:
    """A host's own, which takes in nothing that it does not know; `accept`: one more rule of it."""
    return Ruleset(
        ["inet filter"],
        f"""
table inet filter {{
    chain input {{
        type filter hook input priority filter; policy drop
        ct state established,related accept
        iifname "lo" accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        tcp dport 22 accept
        {accept}
    }}
}}
""",
    )


def port_map(family: Family, ports: Mapping[int, str]) -> Ruleset:
    """Host ports as Docker and the CNI plugin portmap have them, by iptables-nft: TCP ports and where they lead."""
    rules = lines([f"tcp dport {port} counter dnat to {target}" for port, target in ports.items()])
    return Ruleset(
        [f"{family} nat"],
        f"""
table {family} nat {{
    chain CNI-HOSTPORT-DNAT {{
        {rules}
    }}
    chain PREROUTING {{
        type nat hook prerouting priority dstnat
        fib daddr type local counter jump CNI-HOSTPORT-DNAT
    }}
    chain OUTPUT {{
        type nat hook output priority -100
        fib daddr type local counter jump CNI-HOSTPORT-DNAT
    }}
}}
""",
    )
