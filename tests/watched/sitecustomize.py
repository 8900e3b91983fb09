"""Found first on PYTHONPATH, it makes every Python say where it is stuck, master and workers alike.

Whoever still runs `LIMIT_S` after its start writes the stacks of its threads and tasks to standard error, and, as root,
where in the kernel its threads are; again and again.
"""

import asyncio
import faulthandler
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

LIMIT_S = 8.0


def _watch() -> None:
    while True:
        time.sleep(LIMIT_S)
        faulthandler.dump_traceback(all_threads=True)
        for task in list(asyncio.tasks._all_tasks):  # type: ignore[attr-defined]
            if not task.done():
                task.print_stack(file=sys.__stderr__)
        for stack in Path("/proc/self/task").glob("*/stack"):
            with suppress(OSError):
                print(stack, stack.read_text(), sep="\n", file=sys.__stderr__)
        print("so far", file=sys.__stderr__, flush=True)


# it needs no GIL, the other one says more
faulthandler.dump_traceback_later(LIMIT_S + 1, repeat=True)
threading.Thread(target=_watch, daemon=True).start()
