#!/usr/bin/env bash
# The Python package kubernetes 37.0.2, both of its flavours: a kubeconfig's `tokenFile` that ends in a line break, as
# `kubectl create token NAME > FILE` and every editor leave it, makes each request fail before it is sent.
#
# client-go cuts the white space around what the file holds (client-go/transport/token_source.go: strings.TrimSpace), so
# the same kubeconfig works with kubectl. The package puts the line break into the Authorization header, and its HTTP
# library refuses that: a ValueError at the first request, not when the configuration is loaded, which names neither the
# file nor the field.
#
# Input: a kubeconfig with tokenFile, a server on loopback.
# Seen:
#   kubernetes, 'secret': the server got 'Bearer secret'
#   kubernetes, 'secret\n': ValueError, the server got nothing
#   kubernetes.aio, 'secret': the server got 'Bearer secret'
#   kubernetes.aio, 'secret\n': ValueError, the server got nothing
#
# Needs python3 with venv.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kubernetes==37.0.2 aiohttp==3.14.5 2>/dev/null

cat >ask.py <<'PY'
import asyncio
import http.server
import json
import threading

import kubernetes
from kubernetes import aio

got = []


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        got.append(self.headers["Authorization"])
        body = b'{"kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": []}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()


def kubeconfig(token):
    with open("token", "w") as file:
        file.write(token)
    with open("kubeconfig", "w") as file:
        json.dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "u", "user": {"tokenFile": "token"}}],
            },
            file,
        )
    return "kubeconfig"


def ask(token):
    kubernetes.config.load_kube_config(kubeconfig(token))
    kubernetes.client.CoreV1Api().list_service_for_all_namespaces()


async def ask_aio(token):
    await aio.config.load_kube_config(kubeconfig(token))
    async with aio.client.ApiClient() as client:
        await aio.client.CoreV1Api(client).list_service_for_all_namespaces()


for name, asking in (("kubernetes", ask), ("kubernetes.aio", lambda token: asyncio.run(ask_aio(token)))):
    for token in ("secret", "secret\n"):
        got.clear()
        said = ""
        try:
            asking(token)
        except Exception as error:
            said = f"{type(error).__name__}, "
        print(f"{name}, {token!r}: {said}the server got {repr(got[0]) if got else 'nothing'}")
PY

venv/bin/python ask.py | tee seen
diff - seen <<'SEEN'
kubernetes, 'secret': the server got 'Bearer secret'
kubernetes, 'secret\n': ValueError, the server got nothing
kubernetes.aio, 'secret': the server got 'Bearer secret'
kubernetes.aio, 'secret\n': ValueError, the server got nothing
SEEN
echo "as seen before"
