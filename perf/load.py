"""Loads for figures: as little work per request as Python allows, so that client and backend do not hide the proxy."""

import select
import socket
import time

Address = tuple[str, int]

REQUEST = b"GET / please\n"
BLOCK = 1 << 20


def short(target: Address, count: int, sources: list[str], at_once: int) -> float:
    """`count` connections of one request and one answer, `at_once` under way; returns seconds. Raises OSError."""
    poll = select.epoll()
    under_way: dict[int, socket.socket] = {}
    started = 0
    began_s = time.monotonic()
    while started < count or under_way:
        while started < count and len(under_way) < at_once:
            sock = _dial(target, sources[started % len(sources)])
            under_way[sock.fileno()] = sock
            poll.register(sock, select.EPOLLOUT)
            started += 1
        ready = poll.poll(10.0)
        if not ready:
            raise TimeoutError("no connection went on within 10 s")
        for descriptor, event in ready:
            sock = under_way[descriptor]
            if event & select.EPOLLOUT and not event & select.EPOLLIN:
                sock.send(REQUEST)
                poll.modify(sock, select.EPOLLIN)
            else:
                _take_answer(sock)
                del under_way[descriptor]
                sock.close()
    return time.monotonic() - began_s


def kept_alive(target: Address, connections: int, requests: int) -> float:
    """`requests` requests in all on so many connections, each waiting for its answer; returns seconds."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for _ in range(connections):
        sock = socket.create_connection(target, timeout=10.0)
        sock.setblocking(False)
        sockets[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
    began_s = time.monotonic()
    for sock in sockets.values():
        sock.send(REQUEST)
    left = requests - connections
    pending = connections
    while pending:
        ready = poll.poll(10.0)
        if not ready:
            raise TimeoutError("no answer within 10 s")
        for descriptor, _ in ready:
            _take_answer(sockets[descriptor])
            pending -= 1
            if left:
                sockets[descriptor].send(REQUEST)
                left -= 1
                pending += 1
    took_s = time.monotonic() - began_s
    for sock in sockets.values():
        sock.close()
    return took_s


def download(target: Address, connections: int, bytes_each: int) -> float:
    """So many bytes from a "source" server on each connection at once; returns seconds. Raises EOFError."""
    buffer = bytearray(BLOCK)
    poll = select.epoll()
    left: dict[int, int] = {}
    sockets: dict[int, socket.socket] = {}
    began_s = time.monotonic()
    for _ in range(connections):
        sock = socket.create_connection(target, timeout=10.0)
        sock.send(b"%d\n" % bytes_each)
        sockets[sock.fileno()], left[sock.fileno()] = sock, bytes_each
        poll.register(sock, select.EPOLLIN)
    while sockets:
        for descriptor, _ in poll.poll(10.0):
            got = sockets[descriptor].recv_into(buffer)
            left[descriptor] -= got
            if not got:
                sockets.pop(descriptor).close()
                if left[descriptor]:
                    raise EOFError(f"{left[descriptor]} bytes are missing")
    return time.monotonic() - began_s


def _dial(target: Address, source: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((source, 0))
    sock.connect_ex(target)
    return sock


def _take_answer(sock: socket.socket) -> None:
    if not sock.recv(4096):
        raise EOFError("closed without an answer")
