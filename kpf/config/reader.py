"""Reads the configuration from its file and from flags, and finds every mistake in both."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from kpf.config import kube_proxy
from kpf.config.fields import shown
from kpf.config.model import Config, contradictions
from kpf.documents import DocumentError, parse_yaml
from kpf.model.snapshot import Problem
from kpf.suggestions import did_you_mean

API_VERSION, KIND = "kpf.io/v1alpha1", "KpfConfiguration"
MAX_FILE_BYTES = 1 << 20
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

# each flag of `kpf run`, and the field that it overrides
FLAGS: Mapping[str, tuple[str, ...]] = {
    "config": (),
    "manifests": ("manifests",),
    "kubeconfig": ("clientConnection", "kubeconfig"),
    "master": ("master",),
    "hostname-override": ("hostnameOverride",),
    "workers": ("workers",),
    "bind-address": ("bindAddress",),
    "proxy-port-range": ("portRange",),
    "nodeport-addresses": ("nodePortAddresses",),
    "detect-local-mode": ("detectLocalMode",),
    "cluster-cidr": ("clusterCIDR",),
    "healthz-bind-address": ("healthzBindAddress",),
    "metrics-bind-address": ("metricsBindAddress",),
    "control-socket": ("controlSocket",),
    "drain-timeout": ("drainTimeout",),
    "on-exit": ("onExit",),
    "log-level": ("logging", "level"),
    "log-format": ("logging", "format"),
}
FLAG_ONLY = ("master",)

_EXPECTED = {
    "string_type": "must be text",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
}


class ConfigError(ValueError):
    """All mistakes of file and flags. `manifests` is the directory that they name all the same, "" for none."""

    def __init__(self, problems: tuple[Problem, ...], manifests: str = "") -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems, self.manifests = problems, manifests


class _File(NamedTuple):
    """What a file says: fields in kpf's words, what is wrong with it, and what its reader has to know."""

    fields: dict[str, Any]
    problems: list[Problem]
    file_warnings: tuple[str, ...] = ()


def load(overrides: Mapping[str, str]) -> Config:
    """Make the configuration. `overrides`: flags by their name without dashes, "config" among them.

    The file is one of kpf, or of kube-proxy: see `kpf.config.kube_proxy`. Raises `ConfigError` with every mistake
    there is.
    """
    path = overrides.get("config")
    file = _read(path) if path is not None else _File({}, [])
    from_flags = _nested((FLAGS[flag], _typed(flag, value)) for flag, value in overrides.items() if FLAGS[flag])
    problems = [*file.problems, *_problems(file.fields, path or "", of_flags=False)]
    problems += _problems(from_flags, "", of_flags=True)
    merged = _merged(file.fields, from_flags)
    if not problems:
        config = Config.model_validate(merged, by_alias=True, by_name=False)
        problems += [Problem(path or "", "", field, message) for field, message in contradictions(config)]
        if not problems:
            return config.with_file_warnings(file.file_warnings)
    manifests = merged.get("manifests")
    raise ConfigError(tuple(problems), manifests if isinstance(manifests, str) else "")


def warnings(config: Config) -> list[str]:
    """What is allowed and may hurt, or has no effect."""
    return [*config.file_warnings, *_of_handover(config), *_of_ports(config)]


def _of_handover(config: Config) -> Iterator[str]:
    if config.handover_timeout < config.drain_timeout:
        yield (
            f"handoverTimeout {config.handover_timeout:g} s is less than drainTimeout {config.drain_timeout:g} s: "
            "a restart cuts open connections sooner than a stop does"
        )


def _of_ports(config: Config) -> Iterator[str]:
    try:
        low, high = map(int, EPHEMERAL_RANGE.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return
    first, last = config.port_range
    if first <= high and last >= low:
        yield (
            f"portRange {config.port_range} overlaps net.ipv4.ip_local_port_range {low}-{high}: "
            "outgoing connections of this node may take proxy ports"
        )


def _read(path: str) -> _File:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            return _File({}, [Problem(path, "", "", f"is larger than {MAX_FILE_BYTES} bytes")])
        documents = [one for one in parse_yaml(data.decode("utf-8-sig")) if one is not None]
    except OSError as error:
        return _File({}, [Problem(path, "", "", f"cannot be read: {error.strerror or error}")])
    except UnicodeDecodeError as error:
        return _File({}, [Problem(f"{path}:{data.count(10, 0, error.start) + 1}", "", "", "is not UTF-8")])
    except DocumentError as error:
        return _File({}, [Problem(f"{path}:{error.line}", "", "", error.message)])
    if len(documents) != 1 or not isinstance(documents[0], dict):
        return _File({}, [Problem(path, "", "", f"must be one mapping with apiVersion {API_VERSION} and kind {KIND}")])
    return _checked(documents[0], path)


def _checked(document: dict[str, Any], path: str) -> _File:
    api_version, kind = document.pop("apiVersion", None), document.pop("kind", None)
    if (api_version, kind) == (kube_proxy.API_VERSION, kube_proxy.KIND):
        return _translated(document, path)
    if (api_version, kind) != (API_VERSION, KIND):
        seen = f"apiVersion {shown(api_version)}, kind {shown(kind)}"
        other = f"{kube_proxy.API_VERSION}, {kube_proxy.KIND}"
        message = f"must have apiVersion {API_VERSION}, kind {KIND} (or {other}); it has {seen}"
        return _File({}, [Problem(path, "", "", message)])
    problems = [Problem(path, "", name, "is a flag only: --" + name) for name in FLAG_ONLY if name in document]
    # as everywhere in Kubernetes, null stands for a field that is not given
    fields = {name: value for name, value in _without_nulls(document).items() if name not in FLAG_ONLY}
    return _File(fields, problems)


def _translated(document: dict[str, Any], path: str) -> _File:
    said = kube_proxy.translate(document)
    problems = [Problem(path, "", field, message) for field, message in said.problems]
    unused = ", ".join(said.unused)
    file_warnings = (f"{path}: kpf has no use for these settings of kube-proxy: {unused}",) if unused else ()
    return _File(_nested(said.fields.items()), problems, file_warnings)


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }


def _typed(flag: str, value: str) -> str | int:
    return int(value) if flag == "workers" and value.isdecimal() and len(value) < 10 else value


def _nested(fields: Iterable[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """Fields by their path, as a file has them."""
    whole: dict[str, Any] = {}
    for (*outer, name), value in fields:
        inner = whole
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return whole


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for name, value in high.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _problems(fields: dict[str, Any], path: str, *, of_flags: bool) -> Iterator[Problem]:
    try:
        Config.model_validate(fields, by_alias=True, by_name=False)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            place = tuple(str(part) for part in one["loc"])
            message = _message(one) + (_meant(place) if one["type"] == "extra_forbidden" else "")
            if of_flags:
                yield Problem("--" + next(flag for flag, field in FLAGS.items() if field == place), "", "", message)
            else:
                yield Problem(path, "", ".".join(place), message)


def _meant(place: tuple[str, ...]) -> str:
    """Which field of the same part was probably meant by one that there is not."""
    part: Any = Config
    for name in place[:-1]:
        part = next(field.annotation for field in part.model_fields.values() if field.alias == name)
    return did_you_mean(place[-1], (field.alias for field in part.model_fields.values()))


def _message(error: Any) -> str:
    kind, given = error["type"], error["input"]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "extra_forbidden":
        return "is not a field of the configuration"
    if kind == "literal_error":
        return f"must be one of {error['ctx']['expected']}, not {shown(given)}"
    return f"{_EXPECTED.get(kind, error['msg'])}, not {shown(given)}"
