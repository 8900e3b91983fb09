"""Another user of this machine, who binds abstract sockets before kpf does."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

UID = 54321

# to be root of a user namespace of one's own takes no privilege
_CODE = """
import ctypes, os, socket, sys
how, names = sys.argv[1], sys.argv[2:]
try:
    os.setresuid({uid}, {uid}, {uid})
except OSError:
    sys.exit("no other id")
if how == "root of a user namespace" and ctypes.CDLL(None).unshare(0x10000000) != 0:
    sys.exit("no user namespace")
held, fill = [], []
for name in names:
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].bind("\\0" + name)
    if how != "bound only":
        held[-1].listen(0 if how == "full" else 100)
    while how == "full":
        fill.append(socket.socket(socket.AF_UNIX))
        fill[-1].setblocking(False)
        try:
            fill[-1].connect("\\0" + name)
        except BlockingIOError:
            break
print("there", flush=True)
while how == "relieves":
    held[0].accept()[0].close()
sys.stdin.read()
"""


@contextmanager
def stranger(*names: str, how: str = "listens") -> Iterator[int]:
    """Has these abstract names (they begin with a zero byte), and is this process id. Skips the test where there is no
    other user.

    `how`: "listens", "bound only", "full" (its queue), "root of a user namespace", "relieves" (as a master does).
    """
    arguments = [how, *(name.removeprefix("\0") for name in names)]
    command = [sys.executable, "-c", _CODE.format(uid=UID), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            if process.stdout.readline() != "there\n":
                pytest.skip(process.stderr.read())
            yield process.pid
        finally:
            process.kill()
