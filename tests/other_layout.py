"""Another version of `kpf.shm`: the same code with another layout, as a package of its own."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
PACKAGE = "other_shm"
# permuted fields, larger records, other bits, buckets and capacities
CHANGES = {
    "VERSION = 3": "VERSION = 4",
    "WORKER_SLOTS = 512": "WORKER_SLOTS = 64",
    "MEMBER_CAPACITY = 1 << 18": "MEMBER_CAPACITY = 1 << 17",
    "ARENA_WORDS = 1 << 22": "ARENA_WORDS = 1 << 21",
    "MEMBERS_USED_AT = 2, 3, 4": "MEMBERS_USED_AT = 9, 2, 3",
    "GENERATION, PID, MUST_END = range(8)": "GENERATION, PID, MUST_END = 3, 4, 5, 6, 0, 1, 2, 7",
    "ANCHOR, ANCHOR_PORT = 0, 1, 2, 3, 4, 5, 6, 8": "ANCHOR, ANCHOR_PORT = 0, 9, 7, 5, 3, 1, 11, 13",
    "FRONTEND_WORDS = 16": "FRONTEND_WORDS = 32",
    "LABEL_WORDS = 64": "LABEL_WORDS = 96",
    "CONNECT_TIME, OWNER = 0, 1, 3, 4, 5, 6": "CONNECT_TIME, OWNER = 0, 4, 6, 2, 1, 3",
    "MEMBER_WORDS = 8": "MEMBER_WORDS = 16",
    "UNTIL_SHIFT = 16": "UNTIL_SHIFT = 20",
    "PROBING = 1 << 15": "PROBING = 1 << 19",
    "ENTRY_WORDS = 4": "ENTRY_WORDS = 8",
    "BUCKET_ENTRIES = 8": "BUCKET_ENTRIES = 4",
    "BUCKET_BITS = 12": "BUCKET_BITS = 11",
    "F_RETRIES, F_HITS = range(6)": "F_RETRIES, F_HITS = range(12, 6, -1)",
    "F_FAILED = 6": "F_FAILED = 0",
    "F_DIALS_MS = 12": "F_DIALS_MS = 42",
    "F_DIALS = 13": "F_DIALS = 31",
    "F_LASTED_MS = 23": "F_LASTED_MS = 14",
    "F_LASTED = 24": "F_LASTED = 15",
    "FRONTEND_COUNTERS = 40": "FRONTEND_COUNTERS = 48",
    "M_TOTAL, M_ACTIVE = range(2)": "M_TOTAL, M_ACTIVE = 6, 7",
    "M_FAILURES = 2": "M_FAILURES = 0",
}


@dataclass(frozen=True)
class Version:
    """The modules of a `kpf.shm`, this or the other one."""

    balancer: ModuleType
    carry: ModuleType
    directory: ModuleType
    layout: ModuleType
    region: ModuleType


def altered(text: str) -> str:
    """Of layout.py: the other version's. Raises AssertionError if it does not read as it did when this was written."""
    for old, new in CHANGES.items():
        assert text.count(f"{old}\n") + text.count(f"{old}  #") == 1, old
        text = text.replace(old, new, 1)
    return text


def version(package: str = "kpf.shm") -> Version:
    names = ("balancer", "carry", "directory", "layout", "region")
    return Version(*(importlib.import_module(f"{package}.{name}") for name in names))


def other_version(folder: Path) -> Version:
    """Made in an empty folder, once in a process."""
    (folder / PACKAGE).mkdir()
    for path in (ROOT / "kpf" / "shm").glob("*.py"):
        text = path.read_text(encoding="utf-8").replace("kpf.shm", PACKAGE)
        if path.stem == "layout":
            text = altered(text)
        (folder / PACKAGE / path.name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        return version(PACKAGE)
    finally:
        sys.path.remove(str(folder))
