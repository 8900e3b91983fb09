"""Round robin, affinity and health as SEMANTICS sections 3 to 5 have them: slow and obvious."""

from dataclasses import dataclass, field

from kpf.shm.balancer import Choice
from kpf.shm.health import PROBE_MS
from kpf.shm.layout import Address

CLIENTS = ("10.1.0.1", "10.1.0.2", "fd00::1", "fd00::2")
ADDRESSES = tuple(
    Address(b"\0" * 10 + b"\xff\xff" + bytes((10, 0, 0, host)), port) for host in (1, 2, 10) for port in (80, 8080)
)


def name_of(choice: Choice) -> Address:
    host, port = choice.address
    return Address(b"\0" * 10 + b"\xff\xff" + bytes(map(int, host.split("."))), port)


@dataclass
class Health:
    until: int = 0
    out_for: int = 0
    probing: bool = False


@dataclass
class Model:
    """One frontend, in the words of the rules."""

    members: list[Address] = field(default_factory=list)
    last: Address | None = None
    health: dict[Address, Health] = field(default_factory=dict)
    timeout: int = 0
    pins: dict[str, tuple[Address, int]] = field(default_factory=dict)

    def change(self, members: list[Address], timeout: int) -> None:
        for gone in set(self.members) - set(members):
            del self.health[gone]
            self.pins = {client: pin for client, pin in self.pins.items() if pin[0] != gone}
        for new in set(members) - set(self.members):
            self.health[new] = Health()
        if timeout and not self.timeout:
            self.pins.clear()
        self.members, self.timeout = members, timeout

    def pick(self, client: str, tried: set[Address], now: int) -> tuple[Address | None, bool]:
        """Who it is, and whether affinity led there."""
        untried = [one for one in self.members if one not in tried]
        usable = [one for one in untried if self.health[one].until <= now] or untried
        if self.timeout and client in self.pins:
            pinned, used = self.pins[client]
            # merely suspected ones keep their clients
            keeps = pinned in usable or (pinned in untried and self.health[pinned].out_for == 0)
            if now - used < self.timeout and keeps:
                self.pins[client] = pinned, now
                self.probe(pinned, now)
                return pinned, True
        if not usable:
            return None, False
        after = [one for one in usable if self.last is not None and one > self.last]
        self.last = (after or usable)[0]
        self.probe(self.last, now)
        if self.timeout:
            self.pins[client] = self.last, now
        return self.last, False

    def beside(self, tried: set[Address], now: int) -> set[Address]:
        """Who may be dialled beside those."""
        untried = {one for one in self.members if one not in tried}
        return {one for one in untried if self.health[one].until <= now} or untried

    def suspect(self, member: Address, until: int) -> None:
        if member in self.health and self.health[member] == Health():
            self.health[member] = Health(until, 0, True)

    def probe(self, member: Address, now: int) -> None:
        health = self.health[member]
        if health != Health() and health.until <= now:
            health.until, health.probing = now + PROBE_MS, True

    def failed(self, member: Address, client: str, now: int) -> None:
        if self.timeout and self.pins.get(client, (None, 0))[0] == member:
            del self.pins[client]
        health = self.health.get(member)
        if health and (health.until <= now or health.probing):
            health.out_for = min(max(2 * health.out_for, 1000), 10_000)
            health.until, health.probing = now + health.out_for, False

    def succeeded(self, member: Address) -> None:
        if member in self.health:
            self.health[member] = Health()
