"""examples/kubernetes against what it must agree with: the API's own models, kpf's code, the systemd unit."""

import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from kubernetes import client

from kpf import __version__, cli
from kpf.commands import ready
from kpf.config import FLAGS, Config, load
from kpf.master import ending
from kpf.model.names import ObjectName
from kpf.sources.api.correlator import PendingEvent, event
from kpf.sources.api.resources import resources
from kpf.sources.decode import Kind

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "kubernetes"

Document = dict[str, Any]


def read() -> Iterator[Document]:
    for path in sorted(EXAMPLES.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


DOCUMENTS = {document["kind"]: document for document in read()}
CLEANUP = yaml.safe_load((EXAMPLES / "remove" / "cleanup.yaml").read_text())
POD = DOCUMENTS["DaemonSet"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def flags(node_name: str) -> dict[str, str]:
    """What `kpf run` is started with on a node of this name."""
    command, *arguments = [one.replace("$(NODE_NAME)", node_name) for one in CONTAINER["args"]]
    assert command == "run"
    return {name: value for name, _, value in (one.removeprefix("--").partition("=") for one in arguments)}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The configuration that a kpf on node-7 has, its ConfigMap mounted."""
    given = flags("node-7")
    mount = next(one for one in CONTAINER["volumeMounts"] if one["name"] == "config")
    key = PurePath(given["config"]).relative_to(mount["mountPath"])
    file = tmp_path / key
    file.write_text(DOCUMENTS["ConfigMap"]["data"][str(key)])
    return load({**given, "config": str(file)})


def lossless(document: Document) -> bool:
    """Whether its model has all that it says. Raises ValueError for what the model does not take."""
    made = getattr(client, f"V1{document['kind']}").from_dict(document)
    return bool(client.ApiClient().sanitize_for_serialization(made) == document)


def test_no_two_objects_are_of_one_kind() -> None:
    assert len(list(read())) == len(DOCUMENTS) == 5


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_each_object_is_what_the_api_takes(kind: str) -> None:
    assert lossless(DOCUMENTS[kind])


def test_what_removes_kpf_is_what_the_api_takes() -> None:
    assert lossless(CLEANUP)


def test_a_mistake_in_one_would_be_seen() -> None:
    pod = {"containers": [{"name": "kpf", "imagee": "kpf"}]}
    spec = {"selector": {}, "template": {"spec": pod}}
    assert not lossless({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": spec})
    with pytest.raises(ValueError, match="template"):
        lossless({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"selector": {}}})


def place(path: str) -> tuple[str, str]:
    """The API group and the plural of the objects at a path of the API server."""
    match path.strip("/").split("/"):
        case ["api", "v1", plural]:
            return "", plural
        case ["apis", group, _, plural]:
            return group, plural
    raise AssertionError(path)


def asked() -> set[tuple[str, str, str]]:
    """Group, plural and verb of everything that kpf asks of the API server."""
    watched = [place(one.path) for one in resources("node-7")]
    notice = PendingEvent(Kind.SERVICE, ObjectName("shop", "web"), "is not served")
    made = event(notice, ("", ""), node_name="node-7", now=datetime.now(UTC))
    group = made["apiVersion"].partition("/")[0]
    return {(*one, verb) for one in watched for verb in ("list", "watch")} | {(group, "events", "create")}


def test_the_role_allows_what_kpf_asks_and_nothing_else() -> None:
    rules = DOCUMENTS["ClusterRole"]["rules"]
    assert all(set(rule) == {"apiGroups", "resources", "verbs"} for rule in rules)
    allowed = [
        (group, plural, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert sorted(allowed) == sorted(asked())


def test_the_role_is_bound_to_the_account_that_the_pods_have() -> None:
    account, binding = DOCUMENTS["ServiceAccount"]["metadata"], DOCUMENTS["ClusterRoleBinding"]
    assert binding["roleRef"]["name"] == DOCUMENTS["ClusterRole"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account}]
    assert POD["serviceAccountName"] == account["name"]
    assert DOCUMENTS["DaemonSet"]["metadata"]["namespace"] == account["namespace"]


def test_the_pods_are_started_with_flags_of_kpf_run() -> None:
    assert set(flags("node-7")) <= set(FLAGS)


def test_kpf_takes_what_the_pods_are_started_with(config: Config) -> None:
    assert config.node_name == "node-7"
    assert config.master.startswith("https://")
    assert not config.manifests
    (name,) = CONTAINER["env"]
    assert name == {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}


def test_the_probe_over_http_asks_where_kpf_answers_and_kube_proxy_does_not(config: Config) -> None:
    served = config.healthz_bind_address
    assert served is not None
    assert POD["hostNetwork"]
    asked = {"host": str(served.address), "port": served.port, "path": "/livez"}
    assert CONTAINER["livenessProbe"]["httpGet"] == asked
    of_kube_proxy = Config().healthz_bind_address
    assert of_kube_proxy is not None
    assert served.port != of_kube_proxy.port


def test_whether_a_pod_is_ready_is_asked_of_its_own_master(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the host's network its predecessor would answer."""
    asked: list[str] = []

    def answer(control_socket: str) -> int:
        asked.append(control_socket)
        return 0

    monkeypatch.setattr(ready, "main", answer)
    for name in ("startup", "readiness"):
        program, *arguments = CONTAINER[f"{name}Probe"]["exec"]["command"]
        assert program == "kpf"
        assert cli.main(arguments) == 0
    (mounted,) = [one for one in CONTAINER["volumeMounts"] if one["mountPath"] == str(Path(asked[0]).parent)]
    volumes = {one["name"]: one for one in POD["volumes"]}
    assert set(asked) == {config.control_socket}
    # of the pod alone
    assert "emptyDir" in volumes[mounted["name"]]


def test_a_new_pod_begins_beside_the_old_one_and_finds_it(config: Config) -> None:
    strategy = DOCUMENTS["DaemonSet"]["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    # with the host's network, a node has each port but once
    assert "ports" not in CONTAINER
    (mounted,) = [one for one in CONTAINER["volumeMounts"] if one["mountPath"] == str(config.handover_path.parent)]
    (volume,) = [one for one in POD["volumes"] if one["name"] == mounted["name"]]
    # where the unit of a node that has one has it
    host_path = {"path": str(Config().handover_path.parent), "type": "DirectoryOrCreate"}
    assert volume["hostPath"] == host_path
    assert not mounted.get("readOnly")
    assert config.handover_path.name == Config().handover_path.name
    assert config.on_exit == "leave"


def test_a_pod_is_not_killed_before_it_has_drained(config: Config) -> None:
    assert POD["terminationGracePeriodSeconds"] >= config.drain_timeout + ending.LIMIT_S
    assert POD["terminationGracePeriodSeconds"] >= config.handover_timeout + ending.LIMIT_S


def test_a_master_that_hangs_does_not_have_the_hour_of_one_that_waits() -> None:
    for name in ("startup", "liveness"):
        assert CONTAINER[f"{name}Probe"]["terminationGracePeriodSeconds"] < 60


def test_what_removes_kpf_may_reach_the_kernel_of_every_node() -> None:
    pod = CLEANUP["spec"]["template"]["spec"]
    ((cleanup,), (waiting,)) = pod["initContainers"], pod["containers"]
    assert pod["hostNetwork"]
    assert pod["tolerations"] == POD["tolerations"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert cleanup["args"] == ["cleanup"]
    assert cleanup["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert waiting["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {cleanup["image"], waiting["image"]} == {CONTAINER["image"]}
    # of none that kpf's own would select
    labels = CLEANUP["spec"]["template"]["metadata"]["labels"]
    assert labels != DOCUMENTS["DaemonSet"]["spec"]["selector"]["matchLabels"]
    assert labels == CLEANUP["spec"]["selector"]["matchLabels"]


def test_its_capabilities_are_those_of_the_unit_but_for_low_ports(config: Config) -> None:
    unit = (ROOT / "systemd" / "kpf.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    of_unit = {name.removeprefix("CAP_") for name in shlex.split(line.partition("=")[2])}
    given = CONTAINER["securityContext"]["capabilities"]
    assert given["drop"] == ["ALL"]
    assert sorted(given["add"]) == sorted(of_unit - {"NET_BIND_SERVICE"})
    listening = [one.port for one in (config.healthz_bind_address, config.metrics_bind_address) if one]
    assert min(*listening, config.port_range.first) >= 1024


def test_it_can_write_where_it_must_and_nowhere_else(config: Config) -> None:
    security = CONTAINER["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["allowPrivilegeEscalation"] is False
    volumes: Mapping[str, Document] = {one["name"]: one for one in POD["volumes"]}
    writable = {
        mount["mountPath"]: set(volumes[mount["name"]]) - {"name"}
        for mount in CONTAINER["volumeMounts"]
        if not mount.get("readOnly")
    }
    assert writable == {
        str(PurePath(config.control_socket).parent): {"emptyDir"},
        str(config.handover_path.parent): {"hostPath"},
    }
    assert volumes["config"]["configMap"] == {"name": DOCUMENTS["ConfigMap"]["metadata"]["name"]}
    assert len(volumes) == len(CONTAINER["volumeMounts"]) == 3


def containerfile() -> list[list[str]]:
    """Its instructions, as words."""
    lines = (EXAMPLES / "Containerfile").read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def test_the_image_has_what_the_package_is_made_of() -> None:
    copied = {Path(one) for name, *words in containerfile() if name == "COPY" for one in words[:-1]}
    copied = {one for one in copied if not one.is_absolute() and not str(one).startswith("--")}
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, data = metadata["project"], metadata["tool"]["setuptools"]["data-files"]
    beside = {Path(one).parts[0] for files in data.values() for one in files}
    needed = ("pyproject.toml", project["readme"], *project["license-files"], "kpf", *beside)
    assert set(map(Path, needed)) <= copied
    assert all((ROOT / one).exists() for one in copied)


def test_the_image_has_the_versions_that_were_tested() -> None:
    runs = [json.loads("".join(words)) for name, *words in containerfile() if name == "RUN"]
    of_lock, of_kpf = [arguments for _, command, *arguments in runs if command == "install"]
    assert of_lock[-3:] == ["--require-hashes", "--requirement", "/src/requirements.lock"]
    assert of_kpf[-2:] == ["--no-deps", "/src"]


def test_the_image_has_one_python_throughout_and_kpf_takes_it() -> None:
    (base,) = {words[1] for words in containerfile() if words[0] == "FROM"}
    minor = base.removeprefix("python:").removesuffix("-slim")
    assert f"lib/python{minor}" in (EXAMPLES / "Containerfile").read_text()
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, minor.split("."))) >= tuple(map(int, requires.removeprefix(">=").split(".")))


def test_the_image_is_of_this_version() -> None:
    assert CONTAINER["image"].endswith(f"/kpf:{__version__}")
    assert CONTAINER["image"] in (EXAMPLES / "Containerfile").read_text()
