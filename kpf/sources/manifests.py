"""Services and EndpointSlices from the files of one directory.

Rules: only files whose status has changed are read again; a file that cannot be read or does not parse is reported,
and what was last read from it stays in force; a file that is gone takes its objects along; a directory that cannot be
read keeps the last state. What one read may cost is bounded. Reading is synchronous and blocks for as long as it
takes; watching is in `inotify`.
"""

import errno
import gc
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from kpf.documents import DocumentError
from kpf.model.snapshot import Changes, Problem, Snapshot, Watch
from kpf.sources.cache import Cache
from kpf.sources.files import Decoder, FileReader
from kpf.sources.inotify import changes_of

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000
MAX_FILE_BYTES = 32 << 20

# a file may change twice within one tick of the kernel's clock (10 ms at HZ=100), and its times do not tell
_TICK_NS = 20_000_000

# between listing a file and opening it, it went away
_GONE = frozenset({errno.ENOENT})


def is_manifest(name: str) -> bool:
    """Whether a file of this name is read: not if it begins with a dot."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


class DirectoryUnreadableError(OSError):
    """The directory could not be read, and never was."""


_Status = tuple[int, ...]
"""What of a file's status changes with its content, or with who may read it."""


class _UnusableError(Exception):
    """A file that must not be read; the text says why."""


@dataclass(slots=True)
class _File:
    """`status` is None if the next look must read it, whatever its status is then."""

    reader: FileReader
    status: _Status | None = None
    problems: list[Problem] = field(default_factory=list)


class ManifestSource:
    """`directory` may be a symlink that is swapped. `node_name` is this node's, whose Node object counts.

    `decoder`: what stands for `decode`.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, node_name: str = "", decoder: Decoder | None = None
    ) -> None:
        self._directory, self._decoder = os.path.abspath(directory), decoder
        self._cache = Cache(node_name)
        self._files: dict[str, _File] = {}
        self._listed = False

    def read(self) -> Snapshot:
        """Read what has changed, and return what is known now; what has not keeps its identity.

        Raises `DirectoryUnreadableError` until the directory could be read once; after that it is a problem in the
        snapshot, and the last state stays.
        """
        with _no_collection():
            found = self._look()
        snapshot = self._cache.snapshot()
        found += [problem for _, file in sorted(self._files.items()) for problem in file.problems]
        if not found:
            return snapshot
        return replace(snapshot, problems=(*found, *snapshot.problems))

    @property
    def troubles(self) -> tuple[str, ...]:
        """None: what is wrong with the files is among the problems of a snapshot."""
        return ()

    @property
    def seen(self) -> Changes:
        """Until the files were read last."""
        return self._cache.changes

    @property
    def watches(self) -> tuple[Watch, ...]:
        """None: no server is watched."""
        return ()

    async def reread(self) -> None:
        """Nothing to do: each `read` looks whether files have changed."""

    def report(self, problems: tuple[Problem, ...]) -> None:
        """Nothing to do: who writes files reads the log."""

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the next `read` may find something new. Never ends by itself."""
        async for _ in self.changes():
            changed()

    def changes(self) -> AsyncIterator[None]:
        """Yield once at the start, and then whenever the next `read` may find something new. Never ends by itself.

        Raises OSError for what is no shortage of inotify's.
        """
        return changes_of(self._directory, is_manifest)

    def _look(self) -> list[Problem]:
        """Bring the cache up to date; problems of the directory itself."""
        try:
            present = self._list()
        except OSError as error:
            if not self._listed:
                raise DirectoryUnreadableError(error.errno, error.strerror, self._directory) from error
            return [Problem(self._directory, "", "", f"cannot be read, the last state stays: {error.strerror}")]
        self._listed = True
        problems = []
        if len(present) > MAX_FILES:
            message = f"has {len(present)} manifests, of which only the first {MAX_FILES} are read"
            problems.append(Problem(self._directory, "", "", message))
        names = sorted(present)[:MAX_FILES]
        for name in self._files.keys() - set(names):
            self._drop(name)
        for name in names:
            file = self._files.get(name)
            if file is None or file.status is None or file.status != present[name]:
                self._read_file(name, is_link=present[name] is None)
        return problems

    def _list(self) -> dict[str, _Status | None]:
        """The manifests there are. A link that leads nowhere has no status."""
        present: dict[str, _Status | None] = {}
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if is_manifest(entry.name):
                    try:
                        status = entry.stat()
                    except OSError:
                        present[entry.name] = None
                    else:
                        if not stat.S_ISDIR(status.st_mode):
                            present[entry.name] = _status_of(status)
        return present

    def _drop(self, name: str) -> None:
        self._files.pop(name, None)
        self._cache.drop(name)

    def _read_file(self, name: str, *, is_link: bool) -> None:
        file = self._files.get(name) or _File(FileReader(name, self._decoder))
        self._files[name] = file
        file.status, line = None, 0
        try:
            data, file.status = _content(os.path.join(self._directory, name))
            objects = file.reader.read(data)
        except OSError as error:
            if error.errno in _GONE and not is_link:
                self._drop(name)
                return
            message = f"cannot be read: {error.strerror}"
        except _UnusableError as error:
            message = str(error)
        except DocumentError as error:
            message, line = error.message, error.line
        else:
            file.problems = []
            self._cache.put(name, objects)
            return
        stays = self._cache.knows(name)
        file.problems = [Problem(f"{name}:{line}" if line else name, "", "", message, last_stays=stays)]


def _content(path: str) -> tuple[bytes, _Status | None]:
    # a FIFO without a writer would block the whole process
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _UnusableError("is not a regular file")
        data = b"" if status.st_size > MAX_FILE_BYTES else file.read(MAX_FILE_BYTES + 1)
    if status.st_size > MAX_FILE_BYTES or len(data) > MAX_FILE_BYTES:
        raise _UnusableError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data, _status_of(status) if time.time_ns() - status.st_mtime_ns > _TICK_NS else None


def _status_of(status: os.stat_result) -> _Status:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing that is read here is cyclic, and the collector makes parsing of large files several times slower."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
