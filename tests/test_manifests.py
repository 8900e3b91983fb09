"""A directory of manifests on the real file system: read, re-read, watched; and all that can be wrong with it."""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpf.lab.manifests import Manifests, endpoint_slice, service
from kpf.model.names import ObjectName
from kpf.model.snapshot import Snapshot
from kpf.sources import files, manifests
from kpf.sources.decode import Decoded, decode
from kpf.sources.manifests import DirectoryUnreadableError, ManifestSource

ROOT = Path(__file__).parent.parent
DEADLINE_S = 5.0


@pytest.fixture
def shop(tmp_path: Path) -> Manifests:
    return Manifests(tmp_path / "manifests")


def web(address: str = "10.96.0.1") -> dict[str, Any]:
    return service("web", cluster_ips=[address])


def address_of(found: Snapshot, name: str = "web") -> str | None:
    known = found.services.get(ObjectName("default", name))
    return str(known.cluster_ips[0]) if known else None


def said(found: Snapshot) -> list[str]:
    return [str(problem) for problem in found.problems]


def test_which_files_are_read(shop: Manifests) -> None:
    pods = endpoint_slice("a", ["10.244.0.1"], port=8080)
    shop.write("a.yaml", service("a", cluster_ips=["10.96.0.1"]), pods)
    shop.write("b.yml", {"apiVersion": "v1", "kind": "List", "items": [service("b", cluster_ips=["10.96.0.2"])]})
    shop.write_text("c.json", json.dumps(service("c", cluster_ips=["10.96.0.3"])))
    shop.write_text("d.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": [web("10.96.0.4"), 5]}))
    for ignored in (".e.yaml", "f.txt", "g.yaml~", "yaml"):
        shop.write_text(ignored, "[")
    (shop.directory / "h.yaml").mkdir()
    found = ManifestSource(shop.directory).read()
    assert {name.name for name in found.services} == {"a", "b", "c", "web"}
    assert [len(slices) for slices in found.slices.values()] == [1]
    assert found.services[ObjectName("default", "b")].origin == "b.yml"
    assert said(found) == ["d.json: is not an object: 5"]


def test_the_example_has_no_problems() -> None:
    found = ManifestSource(ROOT / "examples" / "manifests").read()
    assert (len(found.services), found.problems) == (5, ())


def test_this_node(shop: Manifests) -> None:
    shop.write("node.yaml", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
    assert ManifestSource(shop.directory).read().node is None
    node = ManifestSource(shop.directory, node_name="node-1").read().node
    assert node is not None
    assert node.name == "node-1"


def test_only_what_changed_is_made_anew(shop: Manifests) -> None:
    shop.write("web.yaml", web())
    shop.write("other.yaml", service("other", cluster_ips=["10.96.0.2"]), endpoint_slice("other", ["10.0.0.1"], port=1))
    source = ManifestSource(shop.directory)
    before = source.read()
    assert source.read() is before
    shop.write("web.yaml", web("10.96.0.9"))
    after = source.read()
    assert address_of(after) == "10.96.0.9"
    other = ObjectName("default", "other")
    assert after.services[other] is before.services[other]
    assert after.slices[other] is before.slices[other]


@pytest.mark.parametrize("name", ["list.yaml", "list.json", "many.yaml"])
def test_only_what_changed_within_a_file_is_made_anew(shop: Manifests, name: str) -> None:
    def write(address: str) -> None:
        objects = [service(f"s{index}", cluster_ips=[f"10.96.1.{index}"]) for index in range(20)]
        objects[7] = service("s7", cluster_ips=[address])
        listed = {"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}}
        if name == "many.yaml":
            shop.write(name, *objects)
        else:
            shop.write_text(name, json.dumps(listed) if name == "list.json" else yaml.dump(listed))

    source = ManifestSource(shop.directory)
    write("10.96.0.1")
    snapshots = [source.read()]
    for address in ("10.96.0.2", "10.96.0.1"):
        write(address)
        snapshots += [source.read(), source.read()]
    changed = ObjectName("default", "s7")
    assert [address_of(found, "s7") for found in snapshots] == [f"10.96.0.{last}" for last in (1, 2, 2, 1, 1)]
    for found in snapshots[1:]:
        assert [key.name for key in found.services if found.services[key] is not snapshots[0].services[key]] == ["s7"]
        assert changed in found.services


def test_two_changes_within_one_tick_of_the_clock(shop: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, inode and times: the status does not tell, so a young file is read again, and an old one is not."""
    monkeypatch.setattr(manifests, "_status_of", lambda _: ())
    source = ManifestSource(shop.directory)
    path = shop.directory / "web.yaml"
    for last in (1, 2, 3):
        path.write_text(yaml.dump(web(f"10.96.0.{last}")), encoding="utf-8")
        assert address_of(source.read()) == f"10.96.0.{last}"
    an_hour_ago_s = time.time() - 3600
    for last, seen in ((4, 4), (5, 4)):
        path.write_text(yaml.dump(web(f"10.96.0.{last}")), encoding="utf-8")
        os.utime(path, (an_hour_ago_s, an_hour_ago_s))
        assert address_of(source.read()) == f"10.96.0.{seen}"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are decoded from now on."""
    names: list[str] = []

    def counted(raw: Any, origin: str) -> Iterator[Decoded]:
        for one in decode(raw, origin):
            names.append(one.name.name if one.name else "")
            yield one

    monkeypatch.setattr(files, "decode", counted)
    return names


@pytest.mark.parametrize("name", ["shop.yaml", "shop.json"])
def test_only_what_changed_is_decoded(decoded: list[str], name: str) -> None:
    def text(items: dict[str, str], after: str) -> bytes:
        listed = [service(key, cluster_ips=[address]) for key, address in items.items()]
        whole = {"apiVersion": "v1", "items": listed, "kind": "List"}
        if name == "shop.json":
            return json.dumps(whole).encode()
        return yaml.dump_all([whole, service("after", cluster_ips=[after])]).encode()

    reader = files.FileReader(name)
    first = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
    steps: list[tuple[bytes, set[str]]] = [
        (text(first, "10.0.1.1"), {"a", "b", "c", "after"}),
        (text(first, "10.0.1.1"), set()),
        (text(first, "10.0.1.2"), {"after"}),
        (text(first | {"b": "10.0.0.9"}, "10.0.1.2"), {"b"}),
        (text({"b": "10.0.0.9", "a": "10.0.0.1", "d": "10.0.0.4"}, "10.0.1.2"), {"d"}),
        # what was forgotten with its last text is decoded again
        (text(first, "10.0.1.2"), {"b", "c"}),
    ]
    for data, expected in steps:
        decoded.clear()
        reader.read(data)
        assert set(decoded) == (expected - {"after"} if name == "shop.json" else expected)


def test_a_list_that_can_only_be_parsed_as_a_whole(shop: Manifests) -> None:
    """An anchor of one item is used in another; a quoted text has a line that looks like an item."""
    text = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a, annotations: {note: "one
- two"}}
  spec: &spec {clusterIP: 10.0.0.1, ports: [{port: 80}]}
- apiVersion: v1
  kind: Service
  metadata: {name: b}
  spec: {<<: *spec, clusterIP: 10.0.0.2}
"""
    shop.write_text("list.yaml", text)
    found = ManifestSource(shop.directory).read()
    assert (address_of(found, "a"), address_of(found, "b"), found.problems) == ("10.0.0.1", "10.0.0.2", ())
    shop.write_text("list.yaml", text + "- a: [\n")
    assert said(ManifestSource(shop.directory).read())[0].startswith("list.yaml:14: is not YAML")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nkind: [Service\n  - :", "web.yaml:3: is not YAML: "),
        ("a: 1\na: 2", "web.yaml:2: the key 'a' is given twice"),
        (b"a: \xff", "web.yaml:1: is not UTF-8"),
        ("- a\n---\nb: *c", "web.yaml:3: the alias *c has no anchor"),
    ],
)
def test_a_file_that_does_not_parse_leaves_what_was_read_from_it(
    shop: Manifests, text: str | bytes, message: str
) -> None:
    shop.write("web.yaml", web())
    shop.write("gone.yaml", service("gone", cluster_ips=["10.96.0.2"]))
    source = ManifestSource(shop.directory)
    source.read()
    path = shop.directory / "web.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    shop.remove("gone.yaml")
    for _ in range(2):
        found = source.read()
        assert address_of(found) == "10.96.0.1"
        assert address_of(found, "gone") is None
        assert len(found.problems) == 1
        assert said(found)[0].startswith(message)
    shop.write("web.yaml", web("10.96.0.3"))
    assert (address_of(source.read()), source.read().problems) == ("10.96.0.3", ())


def test_a_json_file_that_does_not_parse(shop: Manifests) -> None:
    shop.write_text("web.json", '{"a":\n1,}')
    assert said(ManifestSource(shop.directory).read())[0].startswith("web.json:2: is not JSON: ")


def test_one_malformed_object_concerns_that_object_alone(shop: Manifests) -> None:
    shop.write("web.yaml", web(), service("other", cluster_ips=["10.96.0.2"]))
    source = ManifestSource(shop.directory)
    source.read()
    shop.write("web.yaml", {**web("10.96.0.8"), "spec": 5}, service("other", cluster_ips=["10.96.0.9"]))
    found = source.read()
    assert (address_of(found), address_of(found, "other")) == ("10.96.0.1", "10.96.0.9")
    assert said(found) == ["web.yaml: Service default/web: spec: must be an object, not 5"]


def test_files_that_must_not_be_read(shop: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_FILE_BYTES", 1 << 20)
    shop.write("web.yaml", web())
    shop.write_text("large.yaml", "#" * ((1 << 20) + 1))
    os.mkfifo(shop.directory / "fifo.yaml")
    (shop.directory / "nowhere.yaml").symlink_to("nothing")
    found = ManifestSource(shop.directory).read()
    assert address_of(found) == "10.96.0.1"
    assert said(found) == [
        "fifo.yaml: is not a regular file",
        "large.yaml: is larger than 1 MiB",
        "nowhere.yaml: cannot be read: No such file or directory",
    ]


def test_a_bomb_of_aliases(shop: Manifests) -> None:
    levels = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    shop.write_text("bomb.yaml", "a0: &a0 [x]\n" + levels)
    shop.write("web.yaml", web())
    started_s = time.monotonic()
    found = ManifestSource(shop.directory).read()
    assert time.monotonic() - started_s < 2
    assert address_of(found) == "10.96.0.1"
    assert "aliases stand for more than" in said(found)[0]


def test_too_many_files(shop: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_FILES", 3)
    for index in range(5):
        shop.write(f"s{index}.yaml", service(f"s{index}", cluster_ips=[f"10.96.0.{index}"]))
    found = ManifestSource(shop.directory).read()
    assert sorted(name.name for name in found.services) == ["s0", "s1", "s2"]
    assert said(found) == [f"{shop.directory}: has 5 manifests, of which only the first 3 are read"]


def test_a_file_that_may_not_be_read_and_then_may(shop: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is the test's own."""
    shop.write("web.yaml", web())
    refuse = PermissionError(13, "Permission denied")
    really = os.open

    def guarded(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("web.yaml"):
            raise refuse
        return really(path, *args, **kwargs)

    source = ManifestSource(shop.directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", guarded)
        assert said(source.read()) == ["web.yaml: cannot be read: Permission denied"]
    assert (address_of(source.read()), source.read().problems) == ("10.96.0.1", ())


def test_a_directory_that_is_missing_at_the_start_and_later(shop: Manifests) -> None:
    shop.write("web.yaml", web())
    source = ManifestSource(shop.directory)
    away = shop.directory.with_name("away")
    shop.directory.rename(away)
    for _ in range(2):
        with pytest.raises(DirectoryUnreadableError, match="No such file or directory") as caught:
            source.read()
    assert caught.value.filename == str(shop.directory)
    away.rename(shop.directory)
    assert address_of(source.read()) == "10.96.0.1"
    shop.directory.rename(away)
    found = source.read()
    assert address_of(found) == "10.96.0.1"
    assert said(found) == [f"{shop.directory}: cannot be read, the last state stays: No such file or directory"]
    away.rename(shop.directory)
    assert source.read().problems == ()


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryUnreadableError, match="Not a directory"):
        ManifestSource(tmp_path / "file").read()


class Follower:
    """Follows a source as the master does: looks after each notice."""

    def __init__(self, directory: Path) -> None:
        self.source = ManifestSource(directory)
        self.changes: AsyncIterator[None] = self.source.changes()
        self.found = Snapshot()
        self.looks = 0

    async def until(self, holds: Callable[[Snapshot], bool]) -> float:
        """Seconds until a look finds it. Fails after `DEADLINE_S`."""
        started_s = time.monotonic()
        async with asyncio.timeout(DEADLINE_S):
            while not holds(self.found):
                await anext(self.changes)
                self.looks += 1
                with contextlib.suppress(DirectoryUnreadableError):
                    self.found = self.source.read()
        return time.monotonic() - started_s

    async def until_address(self, address: str | None) -> float:
        return await self.until(lambda found: address_of(found) == address)

    async def stays_quiet(self, for_s: float = 0.3) -> bool:
        task = asyncio.ensure_future(anext(self.changes))
        done, _ = await asyncio.wait([task], timeout=for_s)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return not done


async def moves_of_a_directory(shop: Manifests) -> None:
    follower = Follower(shop.directory)
    await follower.until_address("10.96.0.1")
    away = shop.directory.with_name("away")
    shop.directory.rename(away)
    await follower.until(lambda found: bool(found.problems))
    assert address_of(follower.found) == "10.96.0.1"
    away.rename(shop.directory)
    await follower.until(lambda found: not found.problems)
    shutil.rmtree(shop.directory)
    await follower.until(lambda found: bool(found.problems))
    shop.directory.mkdir()
    shop.write("web.yaml", web("10.96.0.2"))
    await follower.until_address("10.96.0.2")
    shop.write("web.yaml", web("10.96.0.3"))
    await follower.until_address("10.96.0.3")


def test_a_directory_that_is_renamed_deleted_and_made_anew_is_followed(shop: Manifests) -> None:
    shop.write("web.yaml", web())
    asyncio.run(moves_of_a_directory(shop))


async def a_file_in_its_place(shop: Manifests) -> None:
    follower = Follower(shop.directory)
    await follower.until_address("10.96.0.1")
    shop.directory.rename(shop.directory.with_name("away"))
    shop.directory.touch()
    await follower.until(lambda found: any("Not a directory" in line for line in said(found)))
    noticed = asyncio.ensure_future(anext(follower.changes))
    await asyncio.sleep(0.1)
    assert not noticed.done()
    shop.directory.unlink()
    shop.directory.mkdir()
    shop.write("web.yaml", web("10.96.0.2"))
    await asyncio.wait_for(noticed, DEADLINE_S)
    with contextlib.suppress(DirectoryUnreadableError):
        follower.found = follower.source.read()
    await follower.until_address("10.96.0.2")


def test_a_directory_that_was_a_file_for_a_while_is_followed(shop: Manifests) -> None:
    shop.write("web.yaml", web())
    asyncio.run(a_file_in_its_place(shop))


def test_every_way_to_change_a_file_is_noticed(shop: Manifests, tmp_path: Path) -> None:
    path = shop.directory / "web.yaml"

    def text(last: int) -> str:
        return yaml.dump(web(f"10.96.0.{last}"))

    def link(how: Callable[[Path, Path], None], last: int) -> None:
        target = tmp_path / f"target-{last}.yaml"
        target.write_text(text(last), encoding="utf-8")
        path.unlink(missing_ok=True)
        how(target, path)

    async def follow() -> None:
        shop.write("web.yaml", web())
        follower = Follower(shop.directory)
        await follower.until_address("10.96.0.1")
        path.write_text(text(2), encoding="utf-8")
        await follower.until_address("10.96.0.2")
        path.rename(shop.directory / ".web.yaml")
        await follower.until_address(None)
        link(lambda target, made: made.hardlink_to(target), 3)
        await follower.until_address("10.96.0.3")
        link(lambda target, made: made.symlink_to(target), 4)
        await follower.until_address("10.96.0.4")
        # the file that a link leads to, outside of the directory
        (tmp_path / "target-4.yaml").write_text(text(5), encoding="utf-8")
        await follower.until_address("10.96.0.5")
        path.unlink()
        await follower.until_address(None)

    asyncio.run(follow())


def swap(link: Path, target: Path) -> None:
    """As kubelet does with a ConfigMap's `..data`: one rename."""
    fresh = link.with_name("..data_tmp")
    fresh.symlink_to(target)
    fresh.rename(link)


def test_a_config_map_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()

    def version(number: int) -> Path:
        made = volume / f"..2025_01_0{number}"
        made.mkdir()
        (made / "web.yaml").write_text(yaml.dump(web(f"10.96.0.{number}")), encoding="utf-8")
        return Path(made.name)

    async def follow() -> None:
        (volume / "..data").symlink_to(version(1))
        (volume / "web.yaml").symlink_to("..data/web.yaml")
        follower = Follower(volume)
        await follower.until_address("10.96.0.1")
        for number in (2, 3, 4):
            swap(volume / "..data", version(number))
            shutil.rmtree(volume / f"..2025_01_0{number - 1}")
            await follower.until_address(f"10.96.0.{number}")
            assert not follower.found.problems

    asyncio.run(follow())


@pytest.mark.parametrize("beyond", ["", "inner"])
def test_a_directory_behind_a_link_that_is_swapped(tmp_path: Path, beyond: str) -> None:
    def version(number: int) -> Path:
        made = tmp_path / f"v{number}"
        (made / beyond).mkdir(parents=True)
        (made / beyond / "web.yaml").write_text(yaml.dump(web(f"10.96.0.{number}")), encoding="utf-8")
        return made

    async def follow() -> None:
        link = tmp_path / "current"
        link.symlink_to(version(1))
        follower = Follower(link / beyond)
        await follower.until_address("10.96.0.1")
        for number in (2, 3):
            swap(link, version(number))
            await follower.until_address(f"10.96.0.{number}")
        (tmp_path / "v3" / beyond / "web.yaml").write_text(yaml.dump(web("10.96.0.9")), encoding="utf-8")
        await follower.until_address("10.96.0.9")

    asyncio.run(follow())


def test_what_does_not_matter_wakes_nobody(shop: Manifests, tmp_path: Path) -> None:
    async def follow() -> None:
        shop.write("web.yaml", web())
        follower = Follower(shop.directory)
        await follower.until_address("10.96.0.1")
        quiet = asyncio.create_task(follower.stays_quiet())
        await asyncio.sleep(0.05)
        (shop.directory / "notes.txt").write_text("x", encoding="utf-8")
        (shop.directory / ".web.yaml.swp").write_text("x", encoding="utf-8")
        (tmp_path / "beside.yaml").write_text("x", encoding="utf-8")
        being_written = (shop.directory / "new.yaml").open("w", encoding="utf-8")
        assert await quiet
        being_written.write(yaml.dump(service("new", cluster_ips=["10.96.0.2"])))
        being_written.close()
        follower = Follower(shop.directory)
        await follower.until(lambda found: address_of(found, "new") == "10.96.0.2")

    asyncio.run(follow())


def test_a_burst_is_one_notice_and_a_long_one_is_not_put_off_for_ever(shop: Manifests) -> None:
    async def follow() -> None:
        follower = Follower(shop.directory)
        await anext(follower.changes)
        follower.source.read()
        for index in range(100):
            shop.write(f"s{index}.yaml", service(f"s{index}", cluster_ips=[f"10.96.1.{index}"]))
        await follower.until(lambda found: len(found.services) == 100)
        assert follower.looks <= 2

        async def write_for_ever() -> None:
            for last in range(1, 250):
                shop.write("web.yaml", web(f"10.96.0.{last}"))
                await asyncio.sleep(0.005)

        writer = asyncio.create_task(write_for_ever())
        assert await follower.until(lambda found: address_of(found) is not None) < 0.8
        writer.cancel()

    asyncio.run(follow())


def test_a_change_among_500_files_is_noticed_read_and_decoded_at_once(shop: Manifests) -> None:
    def write(index: int, pods: int) -> None:
        addresses = [f"10.244.{index // 250}.{pod + 1}" for pod in range(pods)]
        made = service(f"s{index}", cluster_ips=[f"10.96.{index // 250}.{index % 250 + 1}"])
        shop.write(f"s{index}.yaml", made, endpoint_slice(f"s{index}", addresses, port=8080))

    def has(pods: int, found: Snapshot) -> bool:
        return len(found.slices[ObjectName("default", "s77")][0].endpoints) == pods

    async def follow() -> list[float]:
        for index in range(500):
            write(index, 3)
        follower = Follower(shop.directory)
        await follower.until(lambda found: len(found.services) == 500)
        times_s = []
        for pods in range(4, 11):
            await asyncio.sleep(0.03)
            write(77, pods)
            times_s.append(await follower.until(partial(has, pods)))
        return times_s

    times_s = sorted(asyncio.run(follow()))
    # 27 ms on an idle machine, of which 20 are waiting for the burst to end; the machine may be busy
    assert times_s[0] < 0.04, times_s
    assert times_s[len(times_s) // 2] < 0.1, times_s
