"""TCP servers of the lab: one process, many addresses, each of which can be closed and opened again.

What a connection gets is a matter of the address's mode:
- "greet": the server's name and a newline at once, then every byte back; its FIN follows the client's.
- "sink": everything is read; after the client's FIN the number of bytes and a newline.
- "http": for every request without a body the server's name and a newline, as a text; then FIN if it was asked for.
A closed address refuses; one taken from its host (`Host.remove_address`) is a black hole.
"""

import asyncio
import socket
import struct
import sys
from collections import Counter
from multiprocessing.connection import Connection, Pipe
from typing import Any, Literal

from kpf.lab.call import raise_descriptor_limit
from kpf.lab.machine import Machine

Mode = Literal["greet", "sink", "http"]

SINK_BYTES = 1 << 20
# who asks has closed the connection, in the latter cases without having read the answer
ENDED = (EOFError, ConnectionResetError, BrokenPipeError)
# room for every connection of a test at once
BACKLOG = 4096


class Backends:
    """A process full of servers on a machine; each is known by its address, "ip" and port."""

    def __init__(self, machine: Machine) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            descriptor = theirs.fileno()
            self.process = machine.start(
                [sys.executable, "-m", "kpf.lab.backends", str(descriptor)], pass_fds=[descriptor]
            )

    def open(self, address: str, port: int, *, name: str = "", mode: Mode = "greet") -> None:
        """Serve there; the name is "address" unless given. Raises `OSError` if it cannot listen."""
        self._ask("open", address, port, name or address, mode)

    def close(self, address: str, port: int) -> None:
        """Refuse from now on; connections that are open go on."""
        self._ask("close", address, port)

    def cut(self, name: str) -> int:
        """Reset all connections of the servers of that name; how many there were."""
        number: int = self._ask("cut", name)
        return number

    def accepted(self) -> dict[str, int]:
        """How many connections each name has had since the last time this was asked."""
        counts: dict[str, int] = self._ask("accepted")
        return counts

    def active(self) -> int:
        """How many connections are open."""
        number: int = self._ask("active")
        return number

    def stop(self) -> None:
        """End the process: its connections are closed, its addresses refuse."""
        self.process.kill()
        self.process.wait()
        self._connection.close()

    def _ask(self, what: str, *args: object) -> Any:
        self._connection.send((what, args))
        if not self._connection.poll(10.0):
            raise TimeoutError(f"the backends did not answer {what!r} within 10 s")
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __enter__(self) -> "Backends":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Serving(asyncio.Protocol):
    """One connection, "greet" style; the other modes differ in what they do with bytes and with the end."""

    def __init__(self, servers: "_Servers", name: str) -> None:
        self._servers = servers
        self.name = name
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._servers.connections.add(self)
        self._servers.counts[self.name] += 1
        self.greet()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the protocol's signature)
        self._servers.connections.discard(self)

    def greet(self) -> None:
        self.transport.write(self.name.encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class _Sink(_Serving, asyncio.BufferedProtocol):
    def greet(self) -> None:
        self._received = 0
        self._buffer = bytearray(SINK_BYTES)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 (the protocol's signature)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes

    def eof_received(self) -> None:
        self.transport.write(b"%d\n" % self._received)


class _Web(_Serving):
    def greet(self) -> None:
        self._head = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._head = (self._head + data).split(b"\r\n\r\n")
        body = self.name.encode() + b"\n"
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        self.transport.write(answer * len(heads))
        if any(b"\r\nconnection: close" in head.lower() for head in heads):
            self.transport.close()


MODES: dict[str, type[_Serving]] = {
    "greet": _Serving,
    "sink": _Sink,
    "http": _Web,
}


class _Servers:
    """The process's side: servers by address, connections, counts, and the answers to what `Backends` asks."""

    def __init__(self) -> None:
        self.connections: set[_Serving] = set()
        self.counts: Counter[str] = Counter()
        self._listening: dict[tuple[str, int], asyncio.Server] = {}

    async def open(self, address: str, port: int, name: str, mode: Mode) -> None:
        make = MODES[mode]
        server = await asyncio.get_running_loop().create_server(
            lambda: make(self, name), address, port, backlog=BACKLOG, reuse_address=True
        )
        self._listening[address, port] = server

    async def close(self, address: str, port: int) -> None:
        self._listening.pop((address, port)).close()

    async def cut(self, name: str) -> int:
        chosen = [connection for connection in self.connections if connection.name == name]
        for connection in chosen:
            # linger for no time: a reset instead of a FIN
            sock = connection.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.transport.abort()
        return len(chosen)

    async def accepted(self) -> dict[str, int]:
        counts, self.counts = self.counts, Counter()
        return dict(counts)

    async def active(self) -> int:
        return len(self.connections)


async def _obey(connection: Connection) -> None:
    servers = _Servers()
    readable = asyncio.Event()
    asyncio.get_running_loop().add_reader(connection.fileno(), readable.set)
    while True:
        await readable.wait()
        readable.clear()
        if not connection.poll():
            continue
        try:
            what, args = connection.recv()
            connection.send(await _answer(servers, what, args))
        except ENDED:
            return


async def _answer(servers: _Servers, what: str, args: tuple[Any, ...]) -> Any:
    try:
        return await getattr(servers, what)(*args)
    except OSError as error:
        return error


def main() -> None:
    raise_descriptor_limit()
    with Connection(int(sys.argv[1])) as connection:
        asyncio.run(_obey(connection))


if __name__ == "__main__":
    main()
