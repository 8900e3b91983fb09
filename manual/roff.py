"""Writes manual pages with the macros of man(7)."""

import re
from collections.abc import Iterable


class Page:
    """`title`: "KPF". `section`: 8. `source`: what it belongs to, with its version. Text in backticks becomes bold."""

    def __init__(self, title: str, section: int, source: str) -> None:
        # without a date, which would make another page of the same text
        self._lines = [f'.TH {_quoted(title)} {section} "" {_quoted(source)}']

    def heading(self, text: str) -> None:
        """Of a section, in capitals."""
        self._lines.append(f".SH {_quoted(text.upper())}")

    def subheading(self, text: str) -> None:
        """Within a section."""
        self._lines.append(f".SS {_quoted(text)}")

    def paragraph(self, text: str) -> None:
        """Filled."""
        self._lines += [".PP", _inline(text)]

    def item(self, tag: str, text: str) -> None:
        """Of a list: the text beside, or below, what it is about."""
        self._lines += [".TP", _inline(tag), _inline(text)]

    def literal(self, lines: Iterable[str]) -> None:
        """As they are."""
        self._lines += [".PP", ".RS 4", ".nf", *map(_line, lines), ".fi", ".RE"]

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def _inline(text: str) -> str:
    return _line(re.sub(r"`([^`]+)`", "\0\\1\1", text)).replace("\0", r"\fB").replace("\1", r"\fR")


def _line(text: str) -> str:
    """groff(7): a hyphen is one to copy only if it is escaped; a dot or quote at the beginning is a request."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _quoted(text: str) -> str:
    return '"' + _line(text).replace('"', '""') + '"'
