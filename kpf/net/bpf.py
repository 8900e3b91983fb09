"""Programs of classic BPF for sockets, in the words of its assembler (Documentation/networking/filter.rst of Linux)."""

import ctypes
import socket
from collections.abc import Sequence
from typing import NamedTuple

from kpf.uapi.bpf import BPF, SOCK_FILTER, SOCK_FPROG
from kpf.uapi.sockets import SO


class Instruction(NamedTuple):
    """`jt`, `jf`: how many instructions are skipped if it is so, and if it is not."""

    code: int
    jt: int
    jf: int
    k: int


def ld(at: int) -> Instruction:
    """The big-endian word there."""
    return Instruction(BPF.LD | BPF.W | BPF.ABS, 0, 0, at)


def mod(divisor: int) -> Instruction:
    """What is left of it, divided."""
    return Instruction(BPF.ALU | BPF.MOD | BPF.K, 0, 0, divisor)


def jeq(value: int, *, jt: int = 0, jf: int = 0) -> Instruction:
    """Whether it is that."""
    return Instruction(BPF.JMP | BPF.JEQ | BPF.K, jt, jf, value)


def ret(value: int) -> Instruction:
    """The end, and what the program says."""
    return Instruction(BPF.RET | BPF.K, 0, 0, value)


def attach(sock: socket.socket, option: SO, program: Sequence[Instruction]) -> None:
    """Attach a program in place of the one before. Raises OSError.

    SO_ATTACH_FILTER: what it returns is how much of a packet is kept. SO_ATTACH_REUSEPORT_CBPF: it is the socket of the
    group that a connection goes to.
    """
    code = b"".join(SOCK_FILTER.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, option, SOCK_FPROG.pack(len(program), ctypes.addressof(buffer)))
