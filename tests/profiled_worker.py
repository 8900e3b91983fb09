"""`python -m tests.profiled_worker FD COUNTS`: a worker that counts its function calls.

COUNTS is a descriptor of shared memory with two words: calls of Python functions, calls of C functions.
"""

import mmap
import sys
from types import FrameType

from kpf.worker.worker import main

# frames of their own until Python 3.12
INLINED = {"<listcomp>", "<dictcomp>", "<setcomp>"}


def count_calls(counts: memoryview) -> None:
    """Only those that kpf's own code makes: what the library's functions call depends on Python's version."""

    def is_ours(frame: FrameType | None) -> bool:
        return frame is not None and frame.f_globals["__name__"].startswith("kpf.")

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and is_ours(frame.f_back) and frame.f_code.co_name not in INLINED:
            counts[0] += 1
        elif event == "c_call" and is_ours(frame):
            counts[1] += 1

    sys.setprofile(count)


if __name__ == "__main__":
    count_calls(memoryview(mmap.mmap(int(sys.argv[2]), mmap.PAGESIZE)).cast("Q"))
    sys.exit(main(int(sys.argv[1])))
