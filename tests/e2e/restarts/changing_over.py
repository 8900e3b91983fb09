"""From kube-proxy to kpf and back, by the commands of the README; kube-proxy's rules are those of its nftables mode."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGTERM

from kpf.lab.clients import failures, hold
from kpf.lab.daemon import Daemon
from kpf.lab.topology import pod_address
from tests.e2e.kube_proxy import ServicePort, kube_proxy
from tests.e2e.restarts.scene import DNS, PINNED, SHOP, TURN
from tests.e2e.rulesets import Ruleset
from tests.e2e.world import POD_PORT, World

SERVED_S = 0.5
KEPT = 10
END_S = 5.0
_SERVICES = {"shop": ("tcp", SHOP), "turn": ("tcp", TURN), "pinned": ("tcp", PINNED), "dns": ("udp", DNS)}


def kube_proxys_rules() -> Ruleset:
    """Its table for the same Services, with the first pod as their endpoint."""
    endpoint = f"{pod_address(1)}:{POD_PORT}"
    known = [
        ServicePort(name, protocol, address, 30100 + number, endpoint=endpoint, port=port)
        for number, (name, (protocol, (address, port))) in enumerate(_SERVICES.items())
    ]
    return kube_proxy("ip", known)


@contextmanager
def there_and_back(world: World, daemon: Daemon) -> Iterator[Daemon]:
    """kube-proxy serves, and the daemon is not started; inside, kube-proxy serves again, and the daemon drains.

    Some connections that came meanwhile are kept, too.
    """
    rules = kube_proxys_rules()
    daemon.start()
    # kube-proxy --cleanup
    rules.delete()
    time.sleep(SERVED_S)
    with world.lab.outside.converse(hold, SHOP, KEPT) as held:
        rules.load()
        daemon.signal(SIGTERM)
        daemon.wait_for_log("new connections are")
        yield daemon
        assert failures(held.send("ping")) == []
    assert daemon.process is not None
    assert daemon.process.wait(END_S) == 0, daemon.log()
