"""Servers of the lab: one process, many addresses, each of which can be closed and opened again.

What a connection gets is a matter of the address's mode:
- "greet": the server's name and a newline at once, then every byte back; its FIN follows the client's.
- "tell": the server's name, a tab, the client's address as it is seen, and a newline at once; then as "greet".
- "sink": everything is read; after the client's FIN the number of bytes and a newline.
- "http": for every request without a body the server's name and a newline, as a text; then FIN if it was asked for.
- "datagrams": UDP; each datagram is answered with name, tab, address, tab and itself.
A closed address refuses; one taken from its host (`Host.remove_address`) is a black hole.
"""

import asyncio
import socket
import struct
from collections import Counter
from multiprocessing.connection import Connection, Pipe
from typing import Any, Literal, cast

from kpf.lab import udp
from kpf.lab.machine import Machine

Mode = Literal["greet", "tell", "sink", "http", "datagrams"]

SINK_BYTES = 1 << 20
# who asks has closed the connection, in the latter cases without having read the answer
ENDED = (EOFError, ConnectionResetError, BrokenPipeError)
# room for every connection of a test at once
BACKLOG = 4096


class Backends:
    """A process full of servers on a machine; each is known by its address, "ip" and port.

    Whatever it is asked raises `TimeoutError` if it does not answer within 10 s.
    """

    def __init__(self, machine: Machine) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self.process = machine.fork(_serve, theirs)

    def open(self, address: str, port: int, *, name: str = "", mode: Mode = "greet") -> None:
        """Serve there; the name is "address" unless given. Raises `OSError` if it cannot listen."""
        self._ask("open", address, port, name or address, mode)

    def close(self, address: str, port: int, *, mode: Mode = "greet") -> None:
        """Refuse from now on; connections that are open go on. `mode` tells UDP from TCP, no more."""
        self._ask("close", address, port, mode)

    def cut(self, name: str) -> int:
        """Reset all connections of the servers of that name; how many there were."""
        number: int = self._ask("cut", name)
        return number

    def accepted(self) -> dict[str, int]:
        """How many connections or datagrams each name has had since the last time this was asked."""
        counts: dict[str, int] = self._ask("accepted")
        return counts

    def active(self) -> int:
        """How many connections are open, of all names; UDP has none."""
        number: int = self._ask("active")
        return number

    def dropped(self) -> int:
        """How many datagrams were lost since their sockets were full, of all UDP servers that are open."""
        number: int = self._ask("dropped")
        return number

    def clear(self) -> None:
        """As it began: no address is open, no connection, nothing has been accepted."""
        self._ask("clear")

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


class _Teller(_Serving):
    def greet(self) -> None:
        self.transport.write(f"{self.name}\t{self.transport.get_extra_info('peername')[0]}\n".encode())


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


class _Datagrams(asyncio.DatagramProtocol):
    """A UDP server."""

    def __init__(self, counts: Counter[str], name: str) -> None:
        self._counts = counts
        self._name = name
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a subclass of what it is only from Python 3.12 on
        self.transport = cast(asyncio.DatagramTransport, transport)
        udp.make_room(transport.get_extra_info("socket"))

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._counts[self._name] += 1
        self.transport.sendto(f"{self._name}\t{addr[0]}\t".encode() + data, addr)

    def close(self) -> None:
        self.transport.close()

    def dropped(self) -> int:
        return udp.dropped(self.transport.get_extra_info("socket"))


MODES: dict[str, type[_Serving]] = {
    "greet": _Serving,
    "tell": _Teller,
    "sink": _Sink,
    "http": _Web,
}


class _Servers:
    """The process's side: servers by address, connections, counts, and the answers to what `Backends` asks."""

    def __init__(self) -> None:
        self.connections: set[_Serving] = set()
        self.counts: Counter[str] = Counter()
        self._listening: dict[tuple[str, int], asyncio.Server] = {}
        self._datagrams: dict[tuple[str, int], _Datagrams] = {}

    async def open(self, address: str, port: int, name: str, mode: Mode) -> None:
        loop = asyncio.get_running_loop()
        if mode == "datagrams":
            _, self._datagrams[address, port] = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self.counts, name), (address, port)
            )
            return
        make = MODES[mode]
        self._listening[address, port] = await loop.create_server(
            lambda: make(self, name), address, port, backlog=BACKLOG, reuse_address=True
        )

    async def close(self, address: str, port: int, mode: Mode) -> None:
        opened: dict[tuple[str, int], asyncio.Server] | dict[tuple[str, int], _Datagrams]
        opened = self._datagrams if mode == "datagrams" else self._listening
        opened.pop((address, port)).close()

    async def clear(self) -> None:
        for opened in (self._listening, self._datagrams):
            for server in opened.values():
                server.close()
            opened.clear()
        # what was queued is accepted within an iteration
        await asyncio.sleep(0)
        await self.cut()
        while self.connections:
            await asyncio.sleep(0)
        self.counts.clear()

    async def cut(self, name: str | None = None) -> int:
        chosen = [connection for connection in self.connections if name in (connection.name, None)]
        for connection in chosen:
            # linger for no time: a reset instead of a FIN
            sock = connection.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.transport.abort()
        return len(chosen)

    async def accepted(self) -> dict[str, int]:
        counts = dict(self.counts)
        self.counts.clear()
        return counts

    async def active(self) -> int:
        return len(self.connections)

    async def dropped(self) -> int:
        return sum(server.dropped() for server in self._datagrams.values())


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


def _serve(connection: Connection) -> None:
    """Whoever holds the other end of the connection, until it is closed."""
    asyncio.run(_obey(connection))
