"""Who is served by whom, when all is well."""

from collections import Counter

from kpf.demo.numbers import is_even, shares
from kpf.demo.scene import CART, MEMBERS, NODE_PORT, PODS, SHOP, WORKERS, Scene
from kpf.demo.stage import Stage
from kpf.lab.clients import connect, names
from kpf.lab.topology import NODE_ADDRESSES, client_address

EACH = 100
CLIENTS = 60
VISITS = 10


def turns(stage: Stage, scene: Scene) -> None:
    """Connections one after another are shared out exactly, wherever they come from and by whatever address."""
    count = EACH * len(MEMBERS)
    stage.act("Exact fairness", f"{count} connections each way, over {WORKERS} worker processes")
    node_port = (NODE_ADDRESSES[0], NODE_PORT)
    ways = (
        ("outside", "ClusterIP", scene.lab.outside, SHOP),
        ("outside", "NodePort", scene.lab.outside, node_port),
        ("the node", "ClusterIP", scene.lab.node, SHOP),
        ("the node", "NodePort", scene.lab.node, node_port),
        ("a pod", "ClusterIP", scene.lab.pods, SHOP),
    )
    rows, exact, served = [], True, Counter[str]()
    for origin, portal, machine, target in ways:
        stage.doing(f"{count} connections from {origin} to the {portal}")
        outcomes = machine.call(connect, target, count)
        exact &= is_even(outcomes, MEMBERS)
        served.update(names(outcomes))
        rows.append((origin, portal, *shares(outcomes, PODS)))
    stage.table(("from", "to", *PODS, "failed"), rows)
    stage.claim(f"every pod of the Service has exactly {EACH} of each {count}", exact)
    stage.result(f"{count * len(ways):,} connections: {' + '.join(str(served[pod]) for pod in MEMBERS)}")


def affinity(stage: Stage, scene: Scene) -> None:
    """Each client address stays at its pod, whichever worker takes the connection."""
    count = CLIENTS * VISITS
    stage.act("Session affinity", f"{CLIENTS} clients connect {VISITS} times each to cart")
    stage.doing(f"{CLIENTS} clients connect {VISITS} times each")
    before = scene.workers()
    # another order in each round: in the same one, taking turns would lead each to the same pod as well
    sources = [client_address((number + number // CLIENTS) % CLIENTS) for number in range(count)]
    outcomes = scene.lab.outside.call(connect, CART, count, sources=sources)
    by_worker = [
        now["connectionsTotal"] - then["connectionsTotal"] for then, now in zip(before, scene.workers(), strict=True)
    ]
    served_by: dict[str, set[str]] = {}
    for one in outcomes:
        served_by.setdefault(one.source, set()).add(one.name)
    clients = Counter(pod for pods in served_by.values() if len(pods) == 1 for pod in pods)
    faithful = sum(clients[pod] for pod in MEMBERS)
    rows = [("clients", *(clients[pod] for pod in MEMBERS), ""), ("connections", *shares(outcomes, MEMBERS))]
    stage.table(("", *MEMBERS, "failed"), rows)
    stage.say(f"  by worker process: {' and '.join(map(str, by_worker))} connections")
    stage.claim(f"each of {CLIENTS} clients is at one pod all {VISITS} times", faithful == CLIENTS)
    is_fair = {clients[pod] for pod in MEMBERS} == {CLIENTS // len(MEMBERS)}
    stage.claim("the pods have equal shares of the clients", is_fair)
    stage.claim("both workers took part, and agree", min(by_worker) > 0)
    stage.result(f"{faithful} of {CLIENTS} clients always at the same pod")
