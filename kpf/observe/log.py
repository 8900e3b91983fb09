"""The log: one line an event to standard error, as text or JSON, from the standard library's logger "kpf".

A line break or another control character in a message is escaped, so that what strangers wrote into objects cannot
forge a line.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

logger = logging.getLogger("kpf")
# what these have to say at their level "warning" is for the same reader
LIBRARIES = ("asyncio", "aiohttp", "kubernetes")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))} | {0x0A: "\\n", 0x09: "\\t"}


def set_up(level: str, form: Literal["text", "json"]) -> None:
    """Send the log to standard error. Again: replaces what was set before. `level`: debug, info, warning, error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONLines() if form == "json" else _TextLines())
    for name in ("kpf", *LIBRARIES):
        one = logging.getLogger(name)
        one.handlers[:] = [handler]
        one.propagate = False
        one.setLevel(logging.WARNING)
    logger.setLevel(_LEVELS[level])


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_moment(record)} {record.levelname.lower()} {record.getMessage().translate(_ESCAPED)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": _moment(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields, default=str).decode()
