"""Notices changes in a directory by inotify, on the event loop; by looking each second where inotify is short.

Rules: level-triggered: an event says only that it is worth looking again. Before each yield everything on the way to
the directory is watched, so that nothing which happens after the look is missed: the directory may be deleted and
made anew, renamed away, or be reached through symlinks that are swapped, and so may the files in it.
"""

import asyncio
import errno
import logging
import os
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from asyncinotify import Event, Inotify, Mask

from kpf.waiting import beside_the_loop

log = logging.getLogger("kpf")

QUIET_S = 0.02
LONGEST_WAIT_S = 0.2
MAX_LINKS = 40  # as the kernel: path_resolution(7)
MAX_TRIES = 10
# without inotify: how often to look, and to try again
LOOK_S = 1.0

_NAMES_CHANGE = Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO
_CONTENT_CHANGES = _NAMES_CHANGE | Mask.CLOSE_WRITE | Mask.ATTRIB
_ITSELF = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ATTRIB
_ALWAYS = Mask.Q_OVERFLOW | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED | Mask.UNMOUNT

# readlink of what is no link
_NO_LINK = frozenset({errno.EINVAL})
# it went away meanwhile, or is not for this user: what is above it is watched
_CANNOT_WATCH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP})
# the kernel has removed the watch together with what it watched
_WATCH_IS_GONE = frozenset({errno.EINVAL})
# what inotify(7) may be short of, and what it is that is short
_SHORTAGES = {
    errno.EMFILE: "no inotify instance is left for this user (sysctl fs.inotify.max_user_instances)",
    errno.ENOSPC: "no inotify watch is left for this user (sysctl fs.inotify.max_user_watches)",
    errno.ENFILE: "no file is left on this machine (sysctl fs.file-max)",
    errno.ENOMEM: "no kernel memory is left",
}
_NO_DESCRIPTOR = "no descriptor is left for this process (RLIMIT_NOFILE; LimitNOFILE of a unit)"


@dataclass(slots=True)
class _Interest:
    """What matters in one directory: the names that lead somewhere, and all of those that `matches` says."""

    mask: Mask = _ITSELF
    names: set[str] = field(default_factory=set)
    matches: Callable[[str], bool] | None = None


Wanted = dict[str, _Interest]


async def changes_of(directory: str, matches: Callable[[str], bool]) -> AsyncIterator[None]:
    """Yield once at the start, and then some 20 ms (at most 200 ms) after each burst of changes.

    `matches` says which names in the directory matter. Where inotify is short of anything, which is logged once, yield
    every `LOOK_S` until it is not. Raises OSError for what is no shortage.
    """
    told = ""
    while True:
        try:
            async with aclosing(_noticed(directory, matches)) as noticed:
                async for _ in noticed:
                    if told:
                        log.info("%s is watched by inotify again", directory)
                        told = ""
                    yield
        except OSError as error:
            if error.errno not in _SHORTAGES:
                raise
            reason = _NO_DESCRIPTOR if _has_no_descriptors() else _SHORTAGES[error.errno]
        if reason != told:
            log.warning("%s is looked at every %g s, changes are not noticed at once: %s", directory, LOOK_S, reason)
            told = reason
        yield
        await asyncio.sleep(LOOK_S)


async def _noticed(directory: str, matches: Callable[[str], bool]) -> AsyncGenerator[None, None]:
    if _has_no_descriptors():
        # the library, which takes two, would leak the first one
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    inotify = Inotify()
    try:
        watches = _Watches(inotify, directory, matches)
        while True:
            watches.arm()
            yield
            while not watches.concerns(await inotify.get()):
                pass
            await _quiet(inotify, watches)
    finally:
        # for an SRCU grace period (fsnotify_destroy_group): seconds while any program is busy within the kernel
        beside_the_loop(inotify.close)


def _has_no_descriptors() -> bool:
    """Whether this process has used up its own: inotify's limits have the same errno."""
    try:
        for one in os.pipe():
            os.close(one)
    except OSError as error:
        return error.errno == errno.EMFILE
    return False


async def _quiet(inotify: Inotify, watches: "_Watches") -> None:
    """Wait until the burst is over. An event that the time-out swallows is no loss: the look is still to come."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + LONGEST_WAIT_S
    quiet_until_s = loop.time() + QUIET_S
    while loop.time() < end_s:
        try:
            async with asyncio.timeout_at(min(quiet_until_s, end_s)):
                event = await inotify.get()
        except TimeoutError:
            return
        if watches.concerns(event):
            quiet_until_s = loop.time() + QUIET_S


class _Watches:
    """The watches of one inotify instance, kept in step with the way to the directory."""

    def __init__(self, inotify: Inotify, directory: str, matches: Callable[[str], bool]) -> None:
        self._inotify, self._directory, self._matches = inotify, directory, matches
        self._interests: dict[int, _Interest] = {}

    def arm(self) -> None:
        """Watch everything on the way; anew if the way changed meanwhile."""
        wanted = way_to(self._directory, self._matches)
        for _ in range(MAX_TRIES):
            self._watch(wanted)
            again = way_to(self._directory, self._matches)
            if again == wanted:
                return
            wanted = again

    def _watch(self, wanted: Wanted) -> None:
        interests: dict[int, _Interest] = {}
        for path, interest in wanted.items():
            try:
                watch = self._inotify.add_watch(path, interest.mask | Mask.ONLYDIR | Mask.MASK_ADD)
            except OSError as error:
                if error.errno not in _CANNOT_WATCH:
                    raise
            else:
                interests[watch.wd] = interest
        for watch in self._inotify.watches:
            if watch.wd not in interests:
                try:
                    self._inotify.rm_watch(watch)
                except OSError as error:
                    if error.errno not in _WATCH_IS_GONE:
                        raise
        self._interests = interests

    def concerns(self, event: Event) -> bool:
        watch = event.watch
        if event.mask & Mask.Q_OVERFLOW:
            return True
        interest = self._interests.get(watch.wd) if watch is not None else None
        if interest is None or watch is None:
            return False
        if event.mask & _ALWAYS or event.name is None:
            return True
        name = str(event.name)
        if name in interest.names:
            return True
        if interest.matches is None or not interest.matches(name):
            return False
        return not (event.mask & Mask.CREATE and _is_being_written(os.path.join(watch.path, name)))


def _is_being_written(path: str) -> bool:
    """A file that was just made: the event to wait for is that it is closed. A link is complete at once."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def way_to(directory: str, matches: Callable[[str], bool]) -> Wanted:
    """Directories to watch so as to notice any change of the directory, of its files, and of where links lead."""
    wanted: Wanted = {}
    real = _follow(directory, wanted)
    if real is None:
        return wanted
    interest = wanted.setdefault(real, _Interest())
    interest.mask |= _CONTENT_CHANGES
    interest.matches = matches
    if not os.access(real, os.R_OK | os.X_OK):
        # it cannot be watched itself; what is above it tells when its mode changes
        above = wanted.setdefault(os.path.dirname(real), _Interest())
        above.mask |= Mask.ATTRIB
        above.names.add(os.path.basename(real))
        return wanted
    known: dict[str, str | None] = {}
    try:
        with os.scandir(real) as entries:
            links = [os.path.join(real, os.readlink(entry)) for entry in entries if _is_link(entry, matches)]
    except OSError as error:
        if error.errno not in _CANNOT_WATCH:
            raise
        return wanted
    for link in links:
        _follow_file(link, wanted, known)
    return wanted


def _is_link(entry: os.DirEntry[str], matches: Callable[[str], bool]) -> bool:
    return matches(entry.name) and entry.is_symlink()


def _follow_file(path: str, wanted: Wanted, known: dict[str, str | None]) -> None:
    """Note where a link leads. `known`: directories that were followed before, as most links lead to the same."""
    for _ in range(MAX_LINKS):
        parent, name = os.path.split(path)
        if parent not in known:
            known[parent] = _follow(parent, wanted)
        real = known[parent]
        if real is None:
            return
        interest = wanted.setdefault(real, _Interest())
        interest.mask |= _CONTENT_CHANGES
        interest.names.add(name)
        target = _target(os.path.join(real, name))
        if not target:
            return
        path = os.path.join(real, target)


def _follow(path: str, wanted: Wanted) -> str | None:
    """The directory that an absolute path leads to, or None; what to watch on the way there is noted in `wanted`."""
    todo = deque(path.split("/"))
    here, links = "/", 0
    while todo:
        name = todo.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        target = _target(step)
        if target == "" and not os.path.isdir(step):
            # what is in its place leads nowhere
            target = None
        if target == "":
            here = step
            wanted.setdefault(here, _Interest())
            continue
        interest = wanted.setdefault(here, _Interest())
        interest.mask |= _NAMES_CHANGE
        interest.names.add(name)
        links += 1
        if target is None or links > MAX_LINKS:
            return None
        todo.extendleft(reversed(target.split("/")))
        here = "/" if target.startswith("/") else here
    return here


def _target(path: str) -> str | None:
    """What a link says; "" for what is no link, None for what is not there or cannot be reached."""
    try:
        return os.readlink(path)
    except OSError as error:
        return "" if error.errno in _NO_LINK else None
