"""What the API server says when it does not do as it was asked: `v1 Status` objects. Pure."""

from dataclasses import dataclass
from typing import Any

import orjson

MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Refusal:
    """`code` as in HTTP; `retry_after_s` 0 if the server does not say."""

    code: int
    message: str
    retry_after_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.code} {self.message}".strip()


def from_answer(code: int, body: bytes, retry_after_s: float) -> Refusal:
    """`body` should be a Status, and may be anything."""
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Refusal(code, short(body.decode("utf-8", "replace")), retry_after_s)
    told = from_status(status)
    return Refusal(code, told.message, retry_after_s or told.retry_after_s)


def from_status(status: Any) -> Refusal:
    """From the object of an ERROR event; never raises."""
    if not isinstance(status, dict):
        return Refusal(500, "an error that is no Status")
    code, message = status.get("code"), status.get("message") or status.get("reason") or ""
    details = status.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else 0
    return Refusal(
        code if isinstance(code, int) and not isinstance(code, bool) else 500,
        short(message) if isinstance(message, str) else "",
        float(seconds) if isinstance(seconds, int) and not isinstance(seconds, bool) and seconds > 0 else 0.0,
    )


def short(text: str) -> str:
    """On one line, printable, and not long."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * MAX_TEXT]).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 3] + "..."
