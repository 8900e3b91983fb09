#!/usr/bin/env bash
# asyncinotify 4.4.4: an Inotify() that fails for want of a second descriptor keeps the first one for ever.
#
# It makes the inotify instance and then a selector, which is a descriptor too. If that cannot be had (EMFILE), the
# constructor raises and nobody closes the instance, not even the garbage collector. Who tries again later, as one does
# at a limit, loses one of his descriptors and one of the user's 128 inotify instances with every try.
#
# Input: Inotify() three times, each time with room for just one descriptor more.
# Seen:
#   try 1: OSError 24, inotify instances of this process: 1
#   try 2: OSError 24, inotify instances of this process: 2
#   try 3: OSError 24, inotify instances of this process: 3
#
# Needs python3 with venv.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check asyncinotify==4.4.4 2>/dev/null

cat >tries.py <<'PY'
import gc
import os
import resource

from asyncinotify import Inotify

OWN = "/proc/self/fd"
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)


def instances():
    found = 0
    for name in os.listdir(OWN):
        try:
            found += os.readlink(f"{OWN}/{name}") == "anon_inode:inotify"
        except FileNotFoundError:
            pass  # the directory's own
    return found


for number in (1, 2, 3):
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 1, hard))
    try:
        Inotify()
        said = "no error"
    except OSError as error:
        said = f"OSError {error.errno}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    gc.collect()
    print(f"try {number}: {said}, inotify instances of this process: {instances()}")
PY

venv/bin/python tries.py | tee seen
diff - seen <<'SEEN'
try 1: OSError 24, inotify instances of this process: 1
try 2: OSError 24, inotify instances of this process: 2
try 3: OSError 24, inotify instances of this process: 3
SEEN
echo "as seen before"
