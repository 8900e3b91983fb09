"""Writes kubeconfig files."""

import shutil
from pathlib import Path
from typing import NamedTuple

import yaml


class Cluster(NamedTuple):
    """`ca_path`: None without TLS."""

    url: str
    ca_path: Path | None


def write(path: Path, cluster: Cluster, *, token: str | None, token_file: Path | None, client: Path | None) -> Path:
    """With the credentials that are given. `client`: a file with certificate and key. The CA goes beside the file."""
    server: dict[str, str] = {"server": cluster.url}
    if cluster.ca_path:
        server["certificate-authority"] = str(shutil.copyfile(cluster.ca_path, path.with_suffix(".ca.crt")))
    user: dict[str, str] = {}
    if token is not None:
        user["token"] = token
    if token_file:
        user["tokenFile"] = str(token_file)
    if client:
        user |= {"client-certificate": str(client), "client-key": str(client)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)
    return path
