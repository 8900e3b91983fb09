"""Restarts and changes of proxy, as clients notice them."""

from tests.mutants import Mutant

ENDING = "tests/test_ending.py"
RESTARTS = "tests/e2e/restarts/test_restarts.py"
TALLY = "tests/e2e/restarts/test_tally.py"

MUTANTS = (
    Mutant(
        "a kpf that stops drops what kube-proxy could serve",
        "kpf/master/ending.py",
        "        if await _is_kube_proxy_here():\n",
        "        if False:\n",
        (
            f"{ENDING}::test_new_connections_are_left_to_a_kube_proxy_that_has_rules_here",
            f"{RESTARTS}::test_to_kpf_and_back_to_kube_proxy",
        ),
    ),
    Mutant(
        "a kpf that steps aside goes on refusing ports of ClusterIPs",
        "kpf/model/rules.py",
        "            hairpins={},\n            cluster_ips=frozenset(),\n",
        "            hairpins={},\n",
        (
            "tests/test_nft_traffic.py::test_when_stepping_aside_new_connections_go_where_they_are_sent_and_established_ones_go_on",
        ),
    ),
    Mutant(
        "whoever does not let itself be asked for kube-proxy's rules keeps new connections coming",
        "kpf/master/ending.py",
        "        return bool(await transaction(other_proxies.find()))\n",
        "        return bool(await other_proxies.find())\n",
        (f"{ENDING}::test_new_connections_are_left_to_a_kube_proxy_that_has_rules_here",),
    ),
    Mutant(
        "a predecessor's memory that is none is a defect of kpf",
        "kpf/master/parts.py",
        '            raise HandoverError(f"nothing can be taken over from pid {pid}: {error}") from error\n',
        "            raise RuntimeError(pid) from error\n",
        ("tests/e2e/restarts/test_bad_handovers.py::test_a_predecessor_that_lies_is_not_believed",),
    ),
    Mutant(
        "who is late starts everything that is due before anybody is heard",
        "kpf/lab/crowd.py",
        "            for _ in range(BURST):\n",
        "            while True:\n",
        (f"{TALLY}::test_who_is_late_hears_those_under_way_all_the_same",),
    ),
)
