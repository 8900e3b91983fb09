"""HTTP servers: the control socket's path, and addresses that cannot be had yet."""

import asyncio
import contextlib
import http.client
import logging
import socket
from pathlib import Path

import pytest

from kpf.observe import http as served
from kpf.observe.http import Servers, ServerSockets

DOCUMENTS = {"/status": lambda: (200, "fine")}


def test_a_stale_control_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def serve() -> int:
        servers = Servers(ServerSockets())
        await servers.serve_unix(path, DOCUMENTS)
        mode = path.stat().st_mode & 0o777
        await servers.close()
        return mode

    assert asyncio.run(serve()) == 0o600
    assert not path.exists()


def test_the_control_socket_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        with pytest.raises(OSError, match=str(path)):
            asyncio.run(Servers(ServerSockets()).serve_unix(path, DOCUMENTS))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="precious"):
        asyncio.run(Servers(ServerSockets()).serve_unix(path, DOCUMENTS))
    assert path.read_text() == "data"


# in use, not ours, and none that anything can be bound to (EINVAL: link-local without an interface)
@pytest.mark.parametrize("address", ["127.0.0.1", "203.0.113.9", "fe80::1"])
def test_an_address_that_cannot_be_had_is_tried_again(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(served, "RETRY_S", 0.05)
    monkeypatch.setattr(logging.getLogger("kpf"), "propagate", True)

    async def serve() -> int:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port: int = holder.getsockname()[1]
            servers = Servers(ServerSockets())
            await servers.serve_tcp(address, port, DOCUMENTS)
            await asyncio.sleep(0.12)
        await asyncio.sleep(0.12)
        status = await asyncio.to_thread(_get, port) if address == "127.0.0.1" else 0
        await servers.close()
        return status

    assert asyncio.run(serve()) == (200 if address == "127.0.0.1" else 0)
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said.startswith(f"cannot serve http on {address} port ")
    assert said.count(address) == 1


def test_a_document_may_take_its_time() -> None:
    async def slow() -> tuple[int, object]:
        await asyncio.sleep(0)
        return 503, "not yet"

    async def serve() -> int:
        servers = Servers(ServerSockets())
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port: int = holder.getsockname()[1]
        await servers.serve_tcp("127.0.0.1", port, {"/status": slow})
        status = await asyncio.to_thread(_get, port)
        await servers.close()
        return status

    assert asyncio.run(serve()) == 503


def test_health_as_anybody_sees_it_over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CLIENT_TIMEOUT_S", 0.1)

    async def serve() -> list[tuple[int, str | None]]:
        servers = Servers(ServerSockets())
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port: int = holder.getsockname()[1]
        await servers.serve_tcp("127.0.0.1", port, {"/livez": lambda: (200, {"healthy": True})})
        # one that never asks does not stay
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        seen = [await asyncio.to_thread(_ask, port, path) for path in ("/livez", "/elsewhere")]
        await servers.close()
        return seen

    assert asyncio.run(serve()) == [(200, "nosniff"), (404, "nosniff")]


def _ask(port: int, path: str) -> tuple[int, str | None]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("X-Content-Type-Options")


def _get(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/status")
        return connection.getresponse().status
    finally:
        connection.close()


def ask(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5.0)
        client.connect(str(path))
        client.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_servers_sockets_are_handed_over_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def hand_over() -> None:
        old_sockets = ServerSockets()
        old = Servers(old_sockets)
        await old.serve_unix(path, DOCUMENTS)
        assert await old.serve_tcp("127.0.0.1", port, {"/status": lambda: (200, "old")}) == ""
        handed = {name: one.dup() for name, one in old_sockets.open().items()}
        new_sockets = ServerSockets(handed)
        assert new_sockets.has_unix(path)
        new = Servers(new_sockets)
        await new.serve_unix(path, {"/status": lambda: (200, "new")})
        # no retry: it has the very socket
        assert await new.serve_tcp("127.0.0.1", port, {"/status": lambda: (200, "new")}) == ""
        await old.close(handed_over=True)
        assert (await asyncio.to_thread(ask, path)).endswith(b"new")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        await asyncio.to_thread(connection.request, "GET", "/status")
        assert (await asyncio.to_thread(connection.getresponse)).read() == b"new"
        connection.close()
        await new.close()
        assert not path.exists()

    asyncio.run(hand_over())


def test_a_socket_at_the_same_path_of_another_container_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    old, elsewhere = ServerSockets(), tmp_path / "elsewhere"
    one = old.unix(path)
    handed = {name: sock.dup() for name, sock in old.open().items()}
    # what is at this path in the other's file system
    path.rename(elsewhere)
    new = ServerSockets(handed)
    assert not new.has_unix(path)
    other = new.unix(path)
    new.close_unused()
    other.close()
    one.close()
    assert {sock.fileno() for sock in handed.values()} == {-1}
