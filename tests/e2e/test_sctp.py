"""SCTP is forwarded by the kernel, if it tracks that. Seen by raw packets: it takes no SCTP sockets."""

import socket
import struct
import time

import pytest

from kpf.lab.manifests import endpoint_slice, service
from kpf.lab.topology import pod_address
from kpf.master.facts import SCTP
from tests.e2e.world import World, eventually

CLUSTER_IP, PORT, POD_PORT = "10.96.0.30", 3868, 13868
IPPROTO_SCTP = 132


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def init_packet(source_port: int, port: int) -> bytes:
    """An INIT chunk: tag, window, streams out and in, first TSN."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 0x1234, 65536, 1, 1, 1)
    blank = struct.pack(">HHII", source_port, port, 0, 0) + chunk
    return blank[:8] + struct.pack("<I", crc32c(blank)) + blank[12:]


def send(target: str, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_SCTP) as sock:
        for number in range(count):
            sock.sendto(init_packet(40000 + number, PORT), (target, 0))


def receive(count: int, timeout_s: float) -> list[tuple[str, int, bool]]:
    """(destination, port, whether the checksum is right) of what comes to this machine, until so many have come."""
    found: list[tuple[str, int, bool]] = []
    until_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_SCTP) as sock:
        while len(found) < count and (left_s := until_s - time.monotonic()) > 0:
            sock.settimeout(left_s)
            try:
                packet = sock.recv(2048)
            except TimeoutError:
                break
            sctp = packet[20:]
            blank = sctp[:8] + bytes(4) + sctp[12:]
            found.append(
                (
                    socket.inet_ntoa(packet[16:20]),
                    int.from_bytes(sctp[2:4], "big"),
                    sctp[8:12] == struct.pack("<I", crc32c(blank)),
                )
            )
    return found


@pytest.mark.skipif(not SCTP.exists(), reason="this kernel does not track SCTP")
def test_associations_are_spread_over_the_endpoints(world: World) -> None:
    pods = [pod_address(1), pod_address(2)]
    world.manifests.write(
        "sctp.yaml",
        service("sctp", cluster_ips=[CLUSTER_IP], ports=[{"port": PORT, "protocol": "SCTP"}]),
        endpoint_slice("sctp", pods, port=POD_PORT, protocol="SCTP"),
    )
    with world.daemon() as daemon:
        assert daemon.service("sctp")["forwarding"] == "direct"
        with world.lab.pods.begin(receive, 6, 5.0) as receiving:
            # it must listen before anything comes
            eventually(lambda: world.lab.pods.call(_listens), timeout_s=5.0)
            world.lab.outside.call(send, CLUSTER_IP, 6)
            seen = receiving.result()
    assert sorted(seen) == sorted([(pod, POD_PORT, True) for pod in pods] * 3)


def _listens() -> bool:
    with open("/proc/net/raw", encoding="ascii") as file:
        return any(f":{IPPROTO_SCTP:04X} " in line for line in file)
