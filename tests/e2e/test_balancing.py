"""Who is served by whom: exact turns, affinity, and endpoints that fail."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from kpf.lab.clients import Outcome, alternate, connect, failures, hold, median_first_byte_ms, names, steady
from kpf.lab.topology import client_address, pod_address
from kpf.observe.client import ask
from tests.e2e.world import POD_PORT, World, eventually, scrape
from tests.metrics_world import flat

SHOP = ("10.96.0.10", 80)
CLIENTS = [client_address(number) for number in range(200)]


def test_3000_one_after_another_are_1000_each(world: World) -> None:
    pods = world.pods([1, 2, 3])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon:
        outcomes = world.lab.outside.call(connect, SHOP, 3000)
        # whether it was connected, and what kpf has counted, tells where it was lost
        assert failures(outcomes) == [], json.dumps(daemon.status())
        assert names(outcomes) == dict.fromkeys(pods, 1000)
        totals = [worker["connectionsTotal"] for worker in daemon.status()["workers"]]
    assert sum(totals) == 3000
    assert min(totals) > 500, f"one worker did nearly all: {totals}"


@pytest.mark.parametrize("sources", [6, 1])
def test_3000_open_at_once_are_1000_each(world: World, sources: int) -> None:
    pods = world.pods([1, 2, 3])
    world.serve("shop", SHOP[0], pods)
    with (
        world.lasting as daemon,
        world.lab.outside.converse(hold, SHOP, 3000, sources=CLIENTS[:sources], at_once=3000) as held,
    ):
        counts = names(held.first)
        assert sorted(counts) == pods
        assert sum(counts.values()) == 3000
        assert all(999 <= count <= 1001 for count in counts.values()), counts
        assert daemon.service("shop")["connectionsActive"] == 3000
        assert world.backends.active() == 3000


def test_open_connections_are_told_by_their_workers(world: World) -> None:
    pods, clients = world.pods([1, 2, 3]), CLIENTS[:2]
    world.serve("shop", SHOP[0], pods)
    with (
        world.lasting as daemon,
        world.lab.outside.converse(hold, SHOP, 300, sources=clients, at_once=300) as held,
    ):
        path, number = str(daemon.control_socket), Counter(one.name for one in held.first)
        status, answer = ask(path, "/connections")
        assert (status, answer["isComplete"], answer["notTold"]) == (200, True, [])
        found = answer["connections"]
        assert len({one["client"] for one in found}) == len(found) == 300
        assert Counter(one["client"].rpartition(":")[0] for one in found) == dict.fromkeys(clients, 150)
        assert Counter(one["endpoint"] for one in found) == {f"{pod}:{POD_PORT}": number[pod] for pod in pods}
        assert {(one["namespace"], one["name"], one["port"], one["portal"], one["state"]) for one in found} == {
            ("default", "shop", "", "10.96.0.10:80", "open")
        }
        workers = {one["slot"]: (one["pid"], one["connectionsActive"]) for one in daemon.status()["workers"]}
        assert Counter((one["worker"], one["pid"]) for one in found) == {
            (slot, pid): active for slot, (pid, active) in workers.items()
        }
        for what, expected in (
            ("shop", 300),
            ("default/shop", 300),
            (clients[0], 150),
            (found[0]["client"], 1),
            (found[0]["endpoint"], number[found[0]["endpoint"].rpartition(":")[0]]),
            ("192.0.2.1", 0),
        ):
            assert len(ask(path, f"/connections?what={what}")[1]["connections"]) == expected, what
        assert ask(path, "/connections?what=shop/web")[0] == 404


def test_metrics_say_what_was_done(world: World) -> None:
    pods, dead = world.pods([1, 2]), pod_address(50)
    # not "shop": what that has counted in other tests goes on for as long as it is being closed
    world.serve("told", SHOP[0], [*pods, dead], sessionAffinity="ClientIP")
    with world.lasting:
        assert set(names(world.lab.outside.call(connect, SHOP, 9, sources=CLIENTS[:9]))) == set(pods)
        with world.lab.outside.converse(hold, SHOP, 2, sources=CLIENTS[:1]):
            lasted = "kpf_connection_duration_seconds_count default told"
            eventually(lambda: flat(scrape())[lasted] == 9)
            found = flat(scrape())
        other = flat(scrape("application/openmetrics-text; version=1.0.0"), is_open_metrics=True)
    told = [{name.partition(" ")[0] for name in one} - {"kpf_endpoint_shut_out"} for one in (found, other)]
    assert told[0] == told[1]
    assert found["kpf_connections_total default told"] == 11
    assert found["kpf_connections_active default told"] == 2
    assert found["kpf_affinity_hits_total default told"] == 2
    assert found["kpf_dial_duration_seconds_count default told"] == 11
    assert found["kpf_bytes_total out default told"] > 0
    assert sum(found[f"kpf_endpoint_connections_total {pod}:8080 default told"] for pod in pods) == 11
    # on a slow machine there are dials beside others, too
    failed = found[f"kpf_dial_failures_total {dead}:8080 default refused told"]
    assert 1 <= failed <= found["kpf_dial_retries_total default told"]
    assert found["kpf_workers ready"] == 2
    for worker in (0, 1):
        assert found[f"kpf_worker_cpu_seconds_total {worker}"] > 0
        assert found[f"kpf_worker_resident_memory_bytes {worker}"] > 1 << 20
        assert found[f"kpf_listen_overflows_total {worker}"] == 0
    assert found["kubeproxy_sync_proxy_rules_duration_seconds_count IPv4"] >= 1
    assert found["kubeproxy_sync_proxy_rules_service_changes_pending"] == 0


def _by_client(outcomes: list[Outcome]) -> dict[str, Counter[str]]:
    served: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        if outcome.name:
            served.setdefault(outcome.source, Counter())[outcome.name] += 1
    return served


def test_200_clients_stay_where_they_are_until_the_time_out(world: World) -> None:
    pods = world.pods([1, 2, 3, 4])
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 4}}}
    world.serve("shop", SHOP[0], pods[:3], **affinity)
    with world.lasting as daemon:
        first = _by_client(world.lab.outside.call(connect, SHOP, 200, sources=CLIENTS))
        world.serve("shop", SHOP[0], pods, **affinity)
        eventually(lambda: len(daemon.service("shop")["endpoints"]) == 4)
        with world.lab.outside.begin(steady, SHOP, 600, 3.0, sources=CLIENTS) as load:
            time.sleep(0.5)
            os.kill(daemon.worker_pids()[0], signal.SIGKILL)
            time.sleep(0.7)
            world.serve("shop", SHOP[0], pods[:3], **affinity)
            outcomes = load.result()
        assert len(daemon.service("shop")["endpoints"]) == 3
        assert len(failures(outcomes)) <= sum(daemon.active_at_deaths().values())
        served = _by_client(outcomes)
        for client in CLIENTS:
            assert served[client].keys() == first[client].keys(), client
        assert sorted(Counter(name for one in first.values() for name in one).values()) == [66, 67, 67]
        time.sleep(4.2)
        again = _by_client(world.lab.outside.call(connect, SHOP, 200, sources=CLIENTS))
    moved = sum(again[client].keys() != first[client].keys() for client in CLIENTS)
    assert moved > 100, f"only {moved} of 200 clients were free again"


def test_bad_endpoints_are_not_seen_by_clients(world: World, figure: Callable[[str], None]) -> None:
    good, refusing, silent = world.pods([1, 2, 3])
    world.serve("good", "10.96.0.11", [good])
    world.serve("shop", SHOP[0], [good, refusing, silent])
    with world.lasting as daemon:
        world.backends.close(refusing, POD_PORT)
        world.lab.pods.remove_address(silent)
        try:
            without, with_bad = world.lab.outside.call(alternate, [("10.96.0.11", 80), SHOP], 1000)

            def failed_dials() -> dict[str, int]:
                return {one["address"]: one["dialFailures"] for one in daemon.service("shop")["endpoints"]}

            # silence is heard out for three seconds before it is a failure
            eventually(lambda: failed_dials()[f"{silent}:{POD_PORT}"] > 0)
            failed = failed_dials()
        finally:
            world.lab.pods.add_addresses([silent])
    at_once = sorted(with_bad, key=lambda outcome: outcome.first_byte_s)[: -sum(failed.values())]
    ratio = median_first_byte_ms(at_once) / median_first_byte_ms(without)
    slowest_s = max(outcome.first_byte_s for outcome in with_bad)
    figure(
        f"bad endpoints: {names(with_bad)[good]} of 1,000 requests went well; dials that failed: {failed}; median to "
        f"the first byte: {ratio:.3f} of that without bad endpoints; slowest {slowest_s * 1000:.0f} ms"
    )
    assert names(with_bad) == {good: 1000}
    assert failed[f"{good}:{POD_PORT}"] == 0
    assert failed[f"{refusing}:{POD_PORT}"] > 0
    daemon.wait_for_log(f"endpoint {refusing}:{POD_PORT} of default/shop is shut out: connection refused")
    assert failed[f"{silent}:{POD_PORT}"] > 0
    assert slowest_s < 1.0
    assert ratio < 1.10


def test_all_endpoints_dead_is_a_reset(world: World) -> None:
    pods = world.pods([1, 2])
    world.serve("shop", SHOP[0], pods)
    with world.lasting:
        for pod in pods:
            world.backends.close(pod, POD_PORT)
        outcomes = world.lab.outside.call(connect, SHOP, 4)
        assert names(outcomes) == {"ECONNRESET": 4}
        assert max(outcome.first_byte_s for outcome in outcomes) < 0.5
        world.backends.open(pods[0], POD_PORT)
        eventually(lambda: world.answers(SHOP) == {pods[0]: 1}, timeout_s=12)


def test_a_change_goes_on_with_the_turn(world: World) -> None:
    pods = world.pods([1, 2, 3, 4])
    world.serve("shop", SHOP[0], pods[:3])
    with world.lasting as daemon:
        assert world.answers(SHOP, 2) == {pods[0]: 1, pods[1]: 1}
        world.serve("shop", SHOP[0], pods)
        eventually(lambda: len(daemon.service("shop")["endpoints"]) == 4)
        assert world.answers(SHOP, 2) == {pods[2]: 1, pods[3]: 1}
        world.serve("other", "10.96.0.12", pods[:1])
        eventually(lambda: len(daemon.status()["services"]) == 2)
        assert world.answers(SHOP, 1) == {pods[0]: 1}
