"""The log: one line an event to standard error, as text or JSON, from the standard library's logger "kpf".

A line of JSON has the text as `message`, and by keys of their own what that names: namespace, service, port, endpoint,
worker, pid, reason, object, field and others (`kpf.named`).

A line break or another control character in a message is escaped, so that what strangers wrote into objects cannot
forge a line. Where standard error is `kpf.stderr`'s, nobody waits for whoever reads the log; where that is systemd's
journal, each line has the priority of its record, and no time in front, which the journal has itself.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

from kpf.named import Named
from kpf.stderr import DROPPED, StandardError

logger = logging.getLogger("kpf")
# what these have to say at their level "warning" is for the same reader
LIBRARIES = ("asyncio", "aiohttp", "kubernetes")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# syslog(3)'s
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))} | {0x0A: "\\n", 0x09: "\\t"}


def set_up(level: str, form: Literal["text", "json"]) -> None:
    """Send the log to standard error. Again: replaces what was set before. `level`: debug, info, warning, error."""
    is_journal = isinstance(sys.stderr, StandardError) and sys.stderr.is_journal
    formatter: logging.Formatter = _JSONLines() if form == "json" else _TextLines(is_timed=not is_journal)
    if is_journal:
        formatter = _JournalLines(formatter)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    if isinstance(sys.stderr, StandardError):
        sys.stderr.note = lambda dropped: formatter.format(_dropped(dropped))
    for name in ("kpf", *LIBRARIES):
        one = logging.getLogger(name)
        one.handlers[:] = [handler]
        one.propagate = False
        one.setLevel(logging.WARNING)
    logger.setLevel(_LEVELS[level])


def _dropped(lines: int) -> logging.LogRecord:
    return logger.makeRecord(logger.name, logging.WARNING, __file__, 0, DROPPED, (lines,), None)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _TextLines(logging.Formatter):
    def __init__(self, *, is_timed: bool) -> None:
        super().__init__()
        self._is_timed = is_timed

    def format(self, record: logging.LogRecord) -> str:
        time = f"{_moment(record)} " if self._is_timed else ""
        line = f"{time}{record.levelname.lower()} {record.getMessage().translate(_ESCAPED)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        args = record.args if isinstance(record.args, tuple) else ()
        for named in (one for one in args if isinstance(one, Named)):
            fields |= named.keys
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields, default=str).decode()


class _JournalLines(logging.Formatter):
    """Those of another formatter, each with the priority of the record."""

    def __init__(self, lines: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        priority = f"<{_PRIORITIES[record.levelno]}>"
        return "\n".join(priority + line for line in self._lines.format(record).split("\n"))
