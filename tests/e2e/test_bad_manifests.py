"""Manifests that are wrong: said clearly, and everything else goes on."""

import pytest

from kpf.lab.manifests import endpoint_slice, service, with_ingress
from tests.e2e.world import POD_PORT, World, eventually, shop

SHOP = ("10.96.0.10", 80)
BAD = ("10.96.0.66", 80)


def _mutated(path: str, value: object) -> list[dict[str, object]]:
    """A Service `bad` with its slice, one field of either replaced; `path` as in "service.spec.ports.0.port"."""
    objects = dict(zip(("service", "slice"), shop("bad", BAD[0], ["10.244.1.1"]), strict=True))
    *parents, last = path.split(".")
    target: object = objects
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]  # type: ignore[index]  # any JSON
    target[int(last) if isinstance(target, list) else last] = value  # type: ignore[index]  # any JSON
    return list(objects.values())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("service.spec.ports.0.port", 70000),
        ("service.spec.ports.0.port", "eighty"),
        ("service.spec.sessionAffinity", "Sometimes"),
        ("service.spec.ports", {"port": 80}),
        ("slice.ports.0.port", -1),
        ("slice.endpoints.0.addresses.0", "10.244.1.300"),
    ],
)
def test_a_wrong_field_concerns_its_object_alone(world: World, path: str, value: object) -> None:
    pods = world.pods([1, 2])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon:
        world.manifests.write("bad.yaml", *_mutated(path, value), *shop("new", "10.96.0.11", pods))
        eventually(lambda: world.answers(("10.96.0.11", 80), 2, timeout_s=0.5) == dict.fromkeys(pods, 1))
        assert world.answers(SHOP, 4) == dict.fromkeys(pods, 2)
        daemon.wait_for_log("bad.yaml")
        line = next(line for line in daemon.log().splitlines() if "bad.yaml" in line)
        assert "default/bad" in line


def test_addresses_are_read_as_kube_proxy_reads_them_and_what_is_none_costs_nothing_else(world: World) -> None:
    """Forms that older API servers took, and newer ones keep; a guard that cannot be read opens nothing."""
    pods = world.pods([1, 2])
    odd = service(
        "odd",
        cluster_ips=["10.96.000.010"],
        type="LoadBalancer",
        externalIPs=["203.000.113.020", "::ffff:203.0.113.21", "203.0.113.300"],
        loadBalancerSourceRanges=["192.168.050.0/24"],
    )
    guarded = service("guarded", cluster_ips=["10.96.0.11"], type="LoadBalancer", loadBalancerSourceRanges=["anybody"])
    old_forms = [address.replace("10.244.1.", "010.244.001.00") for address in pods]
    world.manifests.write(
        "odd.yaml",
        with_ingress(odd, "203.0.113.022"),
        with_ingress(guarded, "203.0.113.23"),
        *(endpoint_slice("odd", [*old_forms, "10.244.1.300"], port=POD_PORT),),
        *(endpoint_slice("guarded", pods, port=POD_PORT),),
    )
    with world.lasting as daemon:
        for address in ("10.96.0.10", "203.0.113.20", "203.0.113.21", "203.0.113.22", "10.96.0.11"):
            assert world.answers((address, 80), 2) == dict.fromkeys(pods, 1), address
        assert world.answers(("203.0.113.23", 80), timeout_s=0.3) == {"timed out": 1}
    said = [line for line in daemon.log().splitlines() if "odd.yaml" in line]
    for what in ("externalIPs[2]", "endpoints[2].addresses[0]", "guarded: spec.loadBalancerSourceRanges[0]"):
        assert len([line for line in said if what in line]) == 1, said


def test_a_file_that_is_no_yaml_leaves_what_was_read_from_it(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon:
        world.manifests.write_text("shop.yaml", "kind: [Service\n  - :")
        daemon.wait_for_log("shop.yaml")
        world.serve("other", "10.96.0.11", pods)
        eventually(lambda: world.answers(("10.96.0.11", 80), timeout_s=0.5) == {pods[0]: 1})
        assert world.answers(SHOP, 2) == {pods[0]: 2}
        (problem,) = daemon.status()["problems"]
        assert (problem["origin"].partition(":")[0], problem["lastStays"]) == ("shop.yaml", True)
        world.manifests.write_text("new.yaml", "kind: [Service\n  - :")
        eventually(lambda: len(daemon.status()["problems"]) == 2)
        new, still = daemon.status()["problems"]
        assert (new["origin"].partition(":")[0], new["lastStays"]) == ("new.yaml", False)
        assert still == problem
        assert still["since"] <= new["since"]
        world.manifests.remove("new.yaml")
        world.serve("shop", SHOP[0], pods)
        eventually(lambda: daemon.status()["problems"] == [])


def test_a_directory_that_goes_away_leaves_everything(world: World) -> None:
    pods = world.pods([1])
    world.serve("shop", SHOP[0], pods)
    with world.lasting as daemon:
        away = world.directory / "away"
        world.manifests.directory.rename(away)
        daemon.wait_for_log(str(world.manifests.directory))
        assert world.answers(SHOP, 2) == {pods[0]: 2}
        away.rename(world.manifests.directory)
        world.serve("other", "10.96.0.11", pods)
        eventually(lambda: world.answers(("10.96.0.11", 80), timeout_s=0.5) == {pods[0]: 1})


def test_two_services_with_one_portal(world: World) -> None:
    pods = world.pods([1, 2])
    older, newer = (service(name, cluster_ips=[SHOP[0]]) for name in ("older", "newer"))
    older["metadata"]["creationTimestamp"] = "2024-01-01T00:00:00Z"
    newer["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    world.manifests.write("a-newer.yaml", newer, endpoint_slice("newer", pods[1:], port=POD_PORT))
    world.manifests.write("b-older.yaml", older, endpoint_slice("older", pods[:1], port=POD_PORT))
    with world.lasting as daemon:
        assert world.answers(SHOP, 4) == {pods[0]: 4}
        daemon.wait_for_log(f"default/newer: spec.clusterIPs: {SHOP[0]}")
        world.manifests.remove("b-older.yaml")
        eventually(lambda: world.answers(SHOP, 4) == {pods[1]: 4})
