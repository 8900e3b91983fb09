"""linux/filter.h and linux/bpf_common.h of Linux 6.1: instructions of classic BPF."""

import struct
from enum import IntEnum

SOCK_FILTER = struct.Struct("@HBBI")
"""Code, how many instructions to skip if true, and if false, a number."""

SOCK_FPROG = struct.Struct("@HP")
"""How many instructions, and where they are."""


class BPF(IntEnum):
    """Classes of instructions, and what is or-ed with them to make a code."""

    LD = 0x00
    ALU = 0x04
    JMP = 0x05
    RET = 0x06
    # with LD: a word, big-endian, at a place in the packet
    W = 0x00
    ABS = 0x20
    # with ALU and JMP; K: by the number in the instruction
    MOD = 0x90
    JEQ = 0x10
    K = 0x00


class SKF_AD(IntEnum):
    """Places that are no packet's: at OFF and so much."""

    OFF = -0x1000
    RANDOM = 56
