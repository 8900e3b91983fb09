"""Found first on PYTHONPATH, it makes every Python say where it is stuck, master and workers alike.

Whoever still runs `LIMIT_S` after its start writes the stacks of its threads and of its tasks to standard error, again
and again.
"""

import asyncio
import faulthandler
import sys
import threading
import time

LIMIT_S = 25.0


def _watch() -> None:
    while True:
        time.sleep(LIMIT_S)
        faulthandler.dump_traceback(all_threads=True)
        for task in list(asyncio.tasks._all_tasks):  # type: ignore[attr-defined]
            if not task.done():
                task.print_stack(file=sys.__stderr__)
        print("so far", file=sys.__stderr__, flush=True)


faulthandler.enable()
# it needs no GIL, the other one says more
faulthandler.dump_traceback_later(LIMIT_S + 1, repeat=True)
threading.Thread(target=_watch, daemon=True).start()
