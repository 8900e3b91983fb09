"""YAML and JSON text to plain values: mappings, lists, text, numbers, booleans, None.

Rules: work and memory are bounded by the size of the text, whatever it says. Aliases may add a bounded number of
values, nothing recurses, a key that is given twice is an error, and every error has its line. Scalars mean what YAML
1.1 says, except that times and numbers to base 60 stay text. Pure: knows neither files nor what the values stand for.
"""

import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import orjson
import yaml

MAX_ALIASED_VALUES = 100_000
MAX_DEPTH = 200

_TAG = "tag:yaml.org,2002:"
_WORDS: dict[str, Any] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
for _word, _value in (("true", True), ("yes", True), ("on", True), ("false", False), ("no", False), ("off", False)):
    _WORDS |= dict.fromkeys((_word, _word.title(), _word.upper()), _value)
# more digits are not a number that anybody means; and int() of thousands of them takes quadratic time
_INTEGER = re.compile(r"[-+]?(?:0b[01_]{1,64}|0x[0-9a-fA-F_]{1,32}|0[0-7_]{0,32}|[1-9][0-9_]{0,32})\Z")
_FLOAT = re.compile(r"[-+]?(?:\d{1,32}\.\d{0,32}|\.\d{1,32})(?:[eE][-+]\d{1,5})?\Z")
_MAY_BE_NUMBER = frozenset("0123456789+-.")
_NOT_FINITE = {".inf": math.inf, "-.inf": -math.inf, "+.inf": math.inf, ".nan": math.nan}


class DocumentError(ValueError):
    """Text that does not parse. `line` counts from 1; 0 where it is not known."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message, self.line = message, line


def parse_json(data: bytes) -> Any:
    """The one value of a JSON text. Raises `DocumentError`."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"is not JSON: {error.msg}", error.lineno) from None


def parse_yaml(text: str, *, first_line: int = 1) -> list[Any]:
    """The values of all YAML documents in the text. `first_line` is the line it begins on. Raises `DocumentError`."""
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "it does not parse"
        raise DocumentError(f"is not YAML: {reason}", first_line + (mark.line if mark else 0)) from None
    except yaml.YAMLError as error:
        # an unprintable character: libyaml gives its place as an offset
        place = getattr(error, "position", 0)
        reason = getattr(error, "reason", None) or "it does not parse"
        raise DocumentError(f"is not YAML: {reason}", first_line + text.count("\n", 0, place)) from None
    except _RefusedError as error:
        raise DocumentError(str(error), first_line + error.mark_line) from None
    return builder.documents


class _RefusedError(Exception):
    """YAML that parses, and that kpf does not take."""

    def __init__(self, message: str, event: yaml.Event) -> None:
        super().__init__(message)
        self.mark_line = event.start_mark.line if event.start_mark else 0


class _Open:
    """A collection whose end has not come yet. `size` counts the values in it, those of aliases included."""

    __slots__ = ("anchor", "key", "merged", "size", "value")

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value, self.anchor = value, anchor
        self.key: str | None = None
        self.merged: list[dict[str, Any]] = []
        self.size = 1


class _Builder:
    """Builds values from parser events, without recursion. `documents` has those that are complete."""

    def __init__(self) -> None:
        self.documents: list[Any] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._aliased = 0
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._open_mapping,
            yaml.SequenceStartEvent: self._open_sequence,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._begin,
        }

    def take(self, event: yaml.Event) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _begin(self, _: yaml.Event) -> None:
        self._anchors = {}

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        if self._stack and self._awaits_key(self._stack[-1]):
            if event.anchor:
                raise _RefusedError("an anchor on a key is not supported", event)
            self._key(event.value, event)
            return
        value = _scalar_value(event)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._add(value, 1, event)

    @staticmethod
    def _awaits_key(top: _Open) -> bool:
        return top.key is None and isinstance(top.value, dict)

    def _key(self, key: str, event: yaml.Event) -> None:
        top = self._stack[-1]
        if key in top.value:
            raise _RefusedError(f"the key {key[:80]!r} is given twice in one mapping", event)
        top.key = key

    def _add(self, value: Any, size: int, event: yaml.Event) -> None:
        if not self._stack:
            self.documents.append(value)
            return
        top = self._stack[-1]
        top.size += size
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:
            raise _RefusedError("a key must be text", event)
        elif top.key == "<<":
            top.merged += _mappings(value, event)
            top.key = None
        else:
            top.value[top.key] = value
            top.key = None

    def _open_mapping(self, event: yaml.MappingStartEvent) -> None:
        self._open({}, "map", event)

    def _open_sequence(self, event: yaml.SequenceStartEvent) -> None:
        self._open([], "seq", event)

    def _open(self, value: dict[str, Any] | list[Any], tag: str, event: yaml.CollectionStartEvent) -> None:
        if event.tag not in (None, "!", _TAG + tag):
            raise _RefusedError(f"the tag {str(event.tag)[:80]!r} is not supported", event)
        if self._stack and self._awaits_key(self._stack[-1]):
            raise _RefusedError("a key must be text", event)
        if len(self._stack) >= MAX_DEPTH:
            raise _RefusedError(f"is nested deeper than {MAX_DEPTH} levels", event)
        self._stack.append(_Open(value, event.anchor))

    def _close(self, event: yaml.Event) -> None:
        done = self._stack.pop()
        if isinstance(done.value, dict):
            for merged in done.merged:
                # the keys that the mapping itself has win, then the first mapping merged
                done.value.update({key: merged[key] for key in merged.keys() - done.value.keys()})
        if done.anchor:
            self._anchors[done.anchor] = (done.value, done.size)
        self._add(done.value, done.size, event)

    def _alias(self, event: yaml.AliasEvent) -> None:
        if self._stack and self._awaits_key(self._stack[-1]):
            raise _RefusedError("a key must be text", event)
        if event.anchor not in self._anchors:
            raise _RefusedError(f"the alias *{str(event.anchor)[:80]} has no anchor", event)
        value, size = self._anchors[event.anchor]
        self._aliased += size
        if self._aliased > MAX_ALIASED_VALUES:
            raise _RefusedError(f"aliases stand for more than {MAX_ALIASED_VALUES} values", event)
        self._add(value, size, event)


def _mappings(value: Any, event: yaml.Event) -> list[dict[str, Any]]:
    """What a merge key may have: a mapping, or a list of them."""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, dict) for one in listed):
        raise _RefusedError("the merge key << needs a mapping", event)
    return listed


def _scalar_value(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if event.tag is None:
        return plain_value(text) if event.implicit[0] else text
    if event.tag in ("!", _TAG + "str"):
        return text
    value = plain_value(text)
    if event.tag.removeprefix(_TAG) not in _tags_of(value):
        raise _RefusedError(f"the tag {event.tag[:80]!r} does not suit {text[:80]!r}, or is not supported", event)
    return float(value) if event.tag == _TAG + "float" else value


def _tags_of(value: object) -> Iterator[str]:
    if value is None:
        yield "null"
    elif isinstance(value, bool):
        yield "bool"
    elif isinstance(value, int | float):
        yield from ("int", "float") if isinstance(value, int) else ("float",)


def plain_value(text: str) -> Any:
    """What an unquoted scalar stands for (YAML 1.1, but timestamps and base 60 stay text)."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _MAY_BE_NUMBER:
        return text
    if _INTEGER.match(text):
        digits = text.replace("_", "")
        sign = digits[0] in "+-"
        octal = digits[sign : sign + 1] == "0" and digits[sign + 1 :].isdecimal()
        try:
            return int(digits, 8 if octal else 0)
        except ValueError:
            return text
    if _FLOAT.match(text):
        return float(text)
    return _NOT_FINITE.get(text.lower(), text)


class Piece(NamedTuple):
    """Part of a YAML text, and the line that it begins on, counted from 1."""

    text: str
    first_line: int


# beginnings of lines are looked for by the line break before them: five times faster than "^"
_DOCUMENT_START = re.compile(r"\n---(?=\s|\Z)")
_ITEMS = re.compile(r"(?:\A|\n)items:[ \t]*(?=\n( *)- )")
_NEXT_KEY = re.compile(r"\n[^\s#-]")


def split_documents(text: str) -> list[Piece]:
    """The documents of a YAML text, unparsed, so that those which did not change need not be parsed again.

    Exact: a line that begins with `---` ends whatever came before it. Texts with directives are left in one piece.
    """
    if text.startswith("%") or "\n%" in text:
        return [Piece(text, 1)]
    return _cut(text, [match.start() + 1 for match in _DOCUMENT_START.finditer(text)], 1)


def split_items(document: Piece) -> tuple[str, list[Piece]] | None:
    """A document that is a long list under the key `items`, as (the document with an empty list, the list's items).

    None where it does not look like that. A cut inside a quoted text or a flow collection is possible: then at least
    one piece does not parse, and the document must be parsed as a whole.
    """
    text = document.text
    start = _ITEMS.search(text)
    if start is None:
        return None
    following = _NEXT_KEY.search(text, start.end())
    end = following.start() + 1 if following else len(text)
    indent = len(start[1])
    body = text[start.end() + 1 : end]
    # a line that is neither an item's first, nor further in, nor empty, nor a comment
    if re.search(rf"\n(?! {{{indent}}}- | {{{indent + 1}}}|[ \t]*(?:#|\n|\Z))", body):
        return None
    cuts = [match.start() + 1 for match in re.finditer(rf"\n {{{indent}}}- ", body)]
    first_line = document.first_line + text.count("\n", 0, start.end() + 1)
    return f"{text[: start.start()]}\nitems: []\n{text[end:]}", _cut(body, cuts, first_line)


def _cut(text: str, places: list[int], first_line: int) -> list[Piece]:
    pieces = []
    for begin, end in pairwise(sorted({0, *places, len(text)})):
        piece = text[begin:end]
        pieces.append(Piece(piece, first_line))
        first_line += piece.count("\n")
    return pieces
