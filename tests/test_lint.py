"""What `kpf check` finds in manifests that are allowed and probably a mistake; and that what is right is none."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kpf.lab.manifests import Manifests, endpoint_slice, service, with_ingress
from kpf.lint import look, notes, relations, schema
from kpf.lint.notes import Notes
from kpf.sources.decode import API_VERSIONS, Kind
from kpf.sources.manifests import ManifestSource

ROOT = Path(__file__).parent.parent
# what a real API server has stored: it drops what it does not know
STORED = ROOT / "tests" / "kube_apiserver" / "stored-1.36.2.jsonl"
Object = dict[str, Any]


@pytest.fixture
def shop(tmp_path: Path) -> Manifests:
    return Manifests(tmp_path / "shop")


def web(port: Mapping[str, Any] | None = None, **spec: Any) -> Object:
    """`port`: more of its port."""
    return service("web", cluster_ips=["10.96.0.1"], ports=[{"name": "http", "port": 80} | dict(port or {})], **spec)


def listed(*objects: Object) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


def pods(port_name: str = "http", **more: Any) -> Object:
    return endpoint_slice("web", ["10.244.0.1"], port=8080, port_name=port_name, **more)


def said(shop: Manifests) -> list[str]:
    return [str(one) for one in look(str(shop.directory)).warnings]


def changed(whole: Object, *path: str | int, to: Any) -> Object:
    """A copy with another value there, or one more."""
    copy: Object = json.loads(json.dumps(whole))
    part: Any = copy
    for one in path[:-1]:
        part = part.setdefault(one, {}) if isinstance(part, dict) else part[one]
    part[path[-1]] = to
    return copy


def name_of(one: Object) -> tuple[object, ...]:
    metadata = one.get("metadata", {})
    return one["kind"], metadata.get("namespace"), metadata.get("name")


def unnamed(whole: Object) -> Object:
    return changed(whole, "metadata", "labels", to={"kubernetes.io/servicename": "web"})


def test_what_is_right_is_no_warning(shop: Manifests) -> None:
    right = [
        with_ingress(web(type="LoadBalancer", sessionAffinity="ClientIP", selector={"any": "key"}), "192.0.2.1"),
        changed(pods(), "endpoints", 0, "targetRef", to={"kind": "Pod", "name": "web-1", "uid": "1"}),
    ]
    managed = [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:type": {}}}}]
    shop.write("web.yaml", *(changed(one, "metadata", "managedFields", to=managed) for one in right))
    shop.write_text("more.json", json.dumps(listed(service("x", type="ExternalName"))))
    (shop.directory / ".hidden").mkdir()
    (shop.directory / ".web.YAML").touch()
    found = look(str(shop.directory))
    assert (found.warnings, found.left_out) == ([], 0)
    assert found.summary == "2 files: 2 Services (1 ExternalName), 1 EndpointSlice"


def test_what_an_api_server_has_stored_has_no_field_that_there_is_not() -> None:
    seen = Notes()
    for line in STORED.read_text(encoding="utf-8").splitlines():
        list(seen.decode(json.loads(line), ""))
    assert len(seen.counts) == len(API_VERSIONS)
    assert [one for one in seen.warnings if "is no field" in one.message or "is a field of" in one.message] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            web({"nodeport": 30080}, type="NodePort"),
            "Service default/web: spec.ports[0].nodeport: is no field of Service, did you mean nodePort?",
        ),
        (
            web(sessionAffinty="ClientIP"),
            "Service default/web: spec.sessionAffinty: is no field of Service, did you mean sessionAffinity?",
        ),
        (
            web(nodePort=30080),
            "Service default/web: spec.nodePort: is a field of spec.ports[], not of spec",
        ),
        (
            changed(web(), "ports", to=[]),
            "Service default/web: ports: is a field of spec, not of the object itself",
        ),
        (changed(web(), "spec", "colour", to="red"), "Service default/web: spec.colour: is no field of Service"),
        (
            changed(web(), "metadata", "annotations", to={"kpf.io/fowarding": "direct", "other.io/fowarding": "x"}),
            "Service default/web: metadata.annotations[kpf.io/fowarding]: is no annotation of kpf, "
            "did you mean kpf.io/forwarding?",
        ),
        (
            changed(pods(), "metadata", "annotations", to={"kpf.io/forwarding": "direct"}),
            "EndpointSlice default/web-1: metadata.annotations[kpf.io/forwarding]: means nothing on EndpointSlice: "
            "kpf reads annotations of Services",
        ),
        (
            changed(pods(), "endpoints", 0, "conditions", "redy", to=True),
            "EndpointSlice default/web-1: endpoints[0].conditions.redy: is no field of EndpointSlice, "
            "did you mean ready?",
        ),
        (
            {"apiVersion": "v1", "kind": "Servic", "metadata": {"name": "x"}},
            "Servic default/x: kind: v1 has no kind 'Servic', did you mean Service?",
        ),
        (
            {"apiVersion": "discovery.k8s.io/v1", "kind": "endpointslice", "metadata": {"name": "x"}},
            "endpointslice default/x: kind: discovery.k8s.io/v1 has no kind 'endpointslice', "
            "did you mean EndpointSlice?",
        ),
        (
            {"apiVersion": "v1", "kind": "EndpointSlice", "metadata": {"name": "x"}},
            "EndpointSlice default/x: apiVersion: EndpointSlice is of discovery.k8s.io/v1, not of v1",
        ),
        (
            {"apiVersion": "discovry.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"}},
            "EndpointSlice default/x: apiVersion: EndpointSlice is of discovery.k8s.io/v1, not of discovry.k8s.io/v1",
        ),
        (
            {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "x"}},
            "Endpoints default/x: kind: Endpoints are not read, EndpointSlices are (discovery.k8s.io/v1)",
        ),
        (
            {"apiVersion": "v1", "kind": "ServiceList", "items": []},
            "ServiceList without a name: kind: ServiceList is not read, a v1 List is, "
            "as `kubectl get -o yaml` writes it",
        ),
        (
            pods("htttp", suffix="2"),
            "EndpointSlice default/web-2: ports[0].name: 'htttp' is no port of Service default/web, did you mean http?",
        ),
        (
            pods("metrics", suffix="2"),
            "EndpointSlice default/web-2: ports[0].name: 'metrics' is no port of Service default/web",
        ),
        (
            pods("", suffix="2"),
            "EndpointSlice default/web-2: ports[0].name: is missing: the ports of Service default/web have names: http",
        ),
        (
            pods(protocol="UDP", suffix="2"),
            "EndpointSlice default/web-2: ports[0].protocol: port 'http' of Service default/web is TCP, not UDP",
        ),
        (
            endpoint_slice("wbe", ["10.244.0.1"], port=8080),
            "EndpointSlice default/wbe-1: metadata.labels[kubernetes.io/service-name]: there is no Service "
            "default/wbe, did you mean web?",
        ),
        (
            pods(namespace="other"),
            "EndpointSlice other/web-1: metadata.labels[kubernetes.io/service-name]: there is no Service other/web, "
            "but one of this name in namespace default",
        ),
        (
            unnamed(pods()),
            "EndpointSlice default/web-1: metadata.labels[kubernetes.io/servicename]: says of no Service, "
            "did you mean kubernetes.io/service-name?",
        ),
        (
            changed(pods(), "metadata", "labels", to={"app": "web"}),
            "EndpointSlice default/web-1: metadata.labels: kubernetes.io/service-name is missing: "
            "it belongs to no Service",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_the_nearest_right_word(shop: Manifests, wrong: Object, message: str) -> None:
    right = [one for one in (web(), pods()) if name_of(one) != name_of(wrong)]
    shop.write("wrong.yaml", *right, wrong)
    assert said(shop) == [f"wrong.yaml: {message}"]


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("apps/v1", "Deployment"),
        ("v1", "ServiceAccount"),
        ("serving.knative.dev/v1", "Service"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("example.com/v1", "Servic"),
    ],
)
def test_other_kinds_are_nobodys_mistake(shop: Manifests, api_version: str, kind: str) -> None:
    one = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "sepc": {}}
    shop.write("other.yaml", one, changed(one, "metadata", "name", to="y"))
    found = look(str(shop.directory))
    assert found.warnings == []
    told = f"{api_version} {kind}" if kind == "Service" else kind
    assert found.summary == f"1 file: nothing that kpf reads; ignored: {told} (2)"


def test_slices_of_what_has_no_ports_to_compare_with(shop: Manifests) -> None:
    """Of an ExternalName, and of a Service that is malformed: that is a problem, and it is there."""
    shop.write("web.yaml", web(type="ExternalName"), pods("other"))
    shop.write(
        "bad.yaml", changed(service("bad"), "spec", "clusterIP", to="x"), endpoint_slice("bad", ["10.1.1.1"], port=1)
    )
    found = look(str(shop.directory))
    assert found.warnings == []
    assert any(one.object == "Service default/bad" for one in found.snapshot.problems)


def test_a_port_without_a_name(shop: Manifests) -> None:
    shop.write("web.yaml", service("web", cluster_ips=["10.96.0.1"]), pods("http"))
    (found,) = said(shop)
    assert found.endswith("ports[0].name: 'http' is no port of Service default/web, whose only port has no name")


def test_what_nobody_reads_in_the_directory(shop: Manifests) -> None:
    for name in ("web.YAML", "web.ymal", "README.md", "web.yaml~", "layout.xml"):
        (shop.directory / name).touch()
    (shop.directory / "more.yaml").mkdir()
    (shop.directory / "sub").mkdir()
    found = look(str(shop.directory))
    ends = "end in .yaml, .yml or .json"
    assert [str(one) for one in found.warnings] == [
        f"{shop.directory}: has no manifests: files whose names {ends}",
        "more.yaml/: is not read: files are, that are directly in the directory",
        "sub/: is not read: files are, that are directly in the directory",
        f"web.YAML: is not read: names of manifests {ends}",
        f"web.ymal: is not read: names of manifests {ends}",
    ]
    ignored = "README.md, layout.xml, more.yaml/, sub/, web.YAML, web.yaml~, web.ymal"
    assert found.summary == f"0 files: nothing that kpf reads; ignored: {ignored}"


def test_the_summary_counts_what_was_read(shop: Manifests) -> None:
    headless = service("quiet", cluster_ips=["None"])
    shop.write("a.yaml", web(), headless, service("far", type="ExternalName", externalName="example.com"), pods())
    listed = [pods(suffix=str(number)) for number in range(2, 4)]
    shop.write(
        "b.yaml",
        {"apiVersion": "v1", "kind": "List", "items": listed},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}},
    )
    # the same object again: one, and a problem
    shop.write("c.yaml", web())
    for number in range(20):
        shop.write_text(f"{number}.txt", "")
    told = look(str(shop.directory)).summary
    assert told.startswith(
        "3 files: 3 Services (1 headless, 1 ExternalName), 3 EndpointSlices, 1 Node; ignored: 0.txt, "
    )
    assert told.endswith(" and 10 more")


def test_it_reads_as_a_daemon_does(shop: Manifests) -> None:
    shop.write("web.yaml", web(sessionAffinty="x"), pods("htttp"))
    shop.write_text("bad.yaml", "a: [")
    found, plain = look(str(shop.directory)).snapshot, ManifestSource(shop.directory).read()
    assert (found.services, found.slices, found.problems) == (plain.services, plain.slices, plain.problems)


def test_a_list_that_is_decoded_twice_is_told_once(shop: Manifests) -> None:
    """An alias that leads out of an item: the whole list is parsed again."""
    text = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a}
  spec: {clusterIP: 10.96.0.1, colour: &red 1, ports: [{port: 80}]}
- apiVersion: v1
  kind: Service
  metadata: {name: b}
  spec: {clusterIP: 10.96.0.2, colour: *red, ports: [{port: 80}]}
"""
    shop.write_text("list.yaml", text)
    found = look(str(shop.directory))
    assert found.snapshot.problems == ()
    assert [one.object for one in found.warnings] == ["Service default/a", "Service default/b"]
    assert found.summary == "1 file: 2 Services"


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "x" * 300])
def test_names_of_any_kind_are_harmless(shop: Manifests, name: str) -> None:
    shop.write_text("web.json", json.dumps(changed(web(), "spec", name, to=1) | {name: {}}))
    assert len(said(shop)) == 2
    assert all(len(one) < 500 for one in said(shop))


@pytest.mark.parametrize(
    "change",
    [
        lambda one: changed(one, "metadata", "labels", to=5),
        lambda one: changed(one, "metadata", to="web"),
        lambda one: changed(one, "spec", to=[1]),
        lambda one: changed(one, "spec", "ports", to={"port": 80}),
        lambda one: changed(one, "spec", "ports", to=[[1], "a", None]),
        lambda one: changed(one, "ports", to="none"),
        lambda one: changed(one, "kind", to="x" * 100_000),
        lambda one: changed(one, "apiVersion", to="x" * 100_000),
    ],
)  # fmt: skip
def test_any_form_is_survived(shop: Manifests, change: Callable[[Object], Object]) -> None:
    shop.write_text(
        "any.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": [change(web()), change(pods())]})
    )
    assert all(len(one) < 700 for one in said(shop))


def test_what_is_told_has_an_end_and_all_is_counted(shop: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MAX_WARNINGS", 5)
    shop.write("many.yaml", web(None, **{f"x{number}": 1 for number in range(30)}), pods("other"))
    found = look(str(shop.directory))
    # 20 of the Service, that it has more, and the slice's
    assert (len(found.warnings), found.left_out) == (5, 17)


def test_names_are_compared_as_long_as_that_is_quick(shop: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "MAX_COMPARISONS", 1)
    lost = [endpoint_slice(name, ["10.244.0.1"], port=1) for name in ("wbe", "weeb")]
    shop.write("many.yaml", web(), *lost)
    assert [one.endswith("did you mean web?") for one in said(shop)] == [True, False]


def test_the_models_know_all_that_kpf_reads() -> None:
    """A package that names its types otherwise would make warnings of what is right."""
    for kind in Kind:
        fields: Mapping[str, str] = schema.fields_of(schema.type_of(kind))
        assert {"apiVersion", "kind", "metadata"} <= fields.keys()
        assert fields["metadata"] == "V1ObjectMeta"
    assert schema.fields_of("V1ServiceSpec")["ports"] == "V1ServicePort"
    assert schema.fields_of("V1ServiceSpec")["selector"] == ""
    assert schema.homes(Kind.SERVICE)["nodePort"] == "spec.ports[]"
    assert [schema.is_kind(one) for one in ("Pod", "Event", "ServiceSpec", "Servic")] == [True, True, False, False]


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        look(os.fspath(tmp_path / "none"))
