"""docs/configuration.md: every field of the configuration in a table."""

from kpf.config import kube_proxy
from kpf.config.reader import API_VERSION, KIND
from manual.fields import Field, groups

HEAD = f"""# Configuration

Made by `python -m manual` of `kpf.config` and `manual/settings.py`; the page kpf.yaml(5) has the same, and
[systemd/kpf.yaml](../systemd/kpf.yaml) is a file to begin with.

A file for `--config` has `apiVersion: {API_VERSION}`, `kind: {KIND}`, and any of these fields. A flag
wins over its field; `--config` and `--master` are flags alone. A field that there is not is an error, null stands for
one that is not given, and lists may be written with commas. A file of kube-proxy
(`{kube_proxy.API_VERSION}`, `{kube_proxy.KIND}`) is taken, too.

SIGHUP (`systemctl reload kpf`) reads the file anew: what is wrong in it is said, and the old one stays in force;
`kpf check --config-only --config FILE` says it before. What only a restart changes is marked.
"""


def configuration() -> str:
    """The text of the page."""
    lines = [HEAD]
    for title, fields in groups():
        lines += [f"## {title}", "", "| field | flag | default | |", "|---|---|---|---|", *map(_row, fields), ""]
    return "\n".join(lines)


def _row(field: Field) -> str:
    values = "" if not field.values else f" One of {', '.join(f'`{one}`' for one in field.values)}."
    restart = " Only a restart changes it." if field.needs_restart else ""
    default = f"`{field.default}`" if field.default == field.example else field.default
    flag = f"`{field.flag}`" if field.flag else ""
    return f"| `{field.name}` | {flag} | {default} | {field.text}{values}{restart} |"
