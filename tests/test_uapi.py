"""The kernel's numbers and layouts are what the headers say that are installed here."""

import importlib
import pkgutil
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import pytest

from kpf import uapi
from kpf.uapi.netfilter import IP_CT, nf_ct_state_bit

MODULES = [importlib.import_module(f"{uapi.__name__}.{one.name}") for one in pkgutil.iter_modules(uapi.__path__)]
# what no header has, the kernel itself is asked in other tests
EXPORTED = [module for module in MODULES if not module.__name__.endswith(".internal")]
# where the header's name is another one
NAMES = {
    "LINUX_CAPABILITY_VERSION_3": "_LINUX_CAPABILITY_VERSION_3",
    "CAP_USER_HEADER": "__user_cap_header_struct",
}
READ_FROM = 6, 1


def installed() -> tuple[int, int]:
    """The version of the kernel that the headers here are of; 0.0 without any."""
    version = Path("/usr/include/linux/version.h")
    text = version.read_text(encoding="ascii") if version.exists() else ""
    found = re.search(r"LINUX_VERSION_CODE (\d+)", text)
    code = int(found[1]) if found else 0
    return code >> 16, code >> 8 & 0xFF


COMPILER = shutil.which("cc") or ""
needs_headers = pytest.mark.skipif(
    not COMPILER or installed() < READ_FROM,
    reason=f"no C compiler, or no headers of Linux {READ_FROM[0]}.{READ_FROM[1]} or later (Debian: libc6-dev)",
)


def wrong(headers: Iterable[str], claims: Iterable[str]) -> str:
    """What a C compiler says of claims that do not hold."""
    lines = [
        "#define _GNU_SOURCE",
        *(f"#include <{header}>" for header in ("stddef.h", "linux/netlink.h", *headers)),
        *(f'_Static_assert({claim}, "{claim}");' for claim in claims),
    ]
    command = [COMPILER, "-x", "c", "-fsyntax-only", "-"]
    compiled = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False, timeout=60)
    return compiled.stderr


def claims(module: ModuleType) -> Iterator[str]:
    """What must be so, in C."""
    for name, value in vars(module).items():
        if isinstance(value, struct.Struct):
            yield f"{_size(name)} == {value.size}"
        elif isinstance(value, type) and issubclass(value, IntEnum) and value is not IntEnum:
            # a member's name may not begin with a digit
            yield from (f"{name}_{key.lstrip('_')} == {number:d}" for key, number in value.__members__.items())
        elif isinstance(value, int) and name.isupper():
            yield f"{NAMES.get(name, name)} == {value:#x}"


def _size(name: str) -> str:
    if name.startswith("TCPI_"):
        # up to this field
        return f"offsetof(struct tcp_info, {name.lower()}) + sizeof(((struct tcp_info *) 0)->{name.lower()})"
    return f"sizeof(struct {NAMES.get(name, name.lower())})"


@needs_headers
@pytest.mark.parametrize("module", EXPORTED, ids=lambda module: module.__name__.rpartition(".")[2])
def test_numbers_and_layouts_are_those_of_the_headers(module: ModuleType) -> None:
    headers = re.findall(r"\b(?:linux|asm-generic)/[\w/]+\.h\b", module.__doc__ or "")
    made = list(claims(module))
    assert headers
    assert made
    assert wrong(headers, made) == ""


@needs_headers
def test_a_number_that_is_wrong_is_seen() -> None:
    assert "NLMSG_ERROR == 3" in wrong([], ["NLMSG_ERROR == 3"])


@needs_headers
def test_the_bit_of_a_state() -> None:
    bit = f"NF_CT_STATE_BIT(IP_CT_NEW) == {nf_ct_state_bit(IP_CT.NEW)}"
    assert wrong(["linux/netfilter/nf_conntrack_common.h"], [bit]) == ""
