"""The objects of one file, decoded again only where its text has changed.

What an unchanged document, or an unchanged item of a list, was decoded to is remembered by a digest of its text: one
endpoint that changes in a file of a thousand objects costs one object, and the others keep their identity.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import orjson

from kpf.documents import DocumentError, Piece, parse_json, parse_yaml, split_documents, split_items
from kpf.sources.decode import Decoded, decode

Decoder = Callable[[Any, str], Iterator[Decoded]]
"""As `decode`: the objects of a document, and its origin."""

_Made = tuple[Decoded, ...]


class FileReader:
    """Reads the versions of one file, one after the other. `origin`: its name. `decoder`: what stands for `decode`."""

    def __init__(self, origin: str, decoder: Decoder | None = None) -> None:
        self._origin, self._decode = origin, decoder or decode
        self._known: dict[bytes, _Made] = {}
        self._used: dict[bytes, _Made] = {}
        # the items of each document, by its digest
        self._parts: dict[bytes, list[bytes]] = {}

    def read(self, data: bytes) -> _Made:
        """All objects of this version. Raises `DocumentError` if it does not parse; nothing is forgotten then."""
        self._used = {}
        objects = tuple(self._json(data) if self._origin.endswith(".json") else self._yaml(data))
        self._known = self._used
        self._parts = {digest: parts for digest, parts in self._parts.items() if digest in self._known}
        return objects

    def _json(self, data: bytes) -> Iterator[Decoded]:
        document = parse_json(data)
        if isinstance(document, dict) and isinstance(document.get("items"), list):
            items, document["items"] = document["items"], []
            yield from self._decode(document, self._origin)
            # of another kind than List, it is no business of kpf's, and neither are its items
            if (document.get("apiVersion"), document.get("kind")) == ("v1", "List"):
                for item in items:
                    yield from self._remembered(_digest(orjson.dumps(item)), [item])
        else:
            yield from self._decode(document, self._origin)

    def _yaml(self, data: bytes) -> Iterator[Decoded]:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DocumentError("is not UTF-8", data.count(b"\n", 0, error.start) + 1) from None
        for document in split_documents(text):
            digest = _digest(document.text.encode())
            made = self._known.get(digest)
            if made is None:
                made = self._items(document, self._parts.setdefault(digest, []))
            else:
                self._used.update((part, self._known[part]) for part in self._parts.get(digest, ()))
            if made is None:
                values = parse_yaml(document.text, first_line=document.first_line)
                made = tuple(self._decoded(value for value in values if value is not None))
            self._used[digest] = made
            yield from made

    def _items(self, document: Piece, digests: list[bytes]) -> _Made | None:
        """A v1 List, item by item; None if it is none, or can only be parsed as a whole. `digests`: the items'."""
        parts = split_items(document)
        if parts is None:
            return None
        frame, items = parts
        made: list[Decoded] = []
        try:
            values = parse_yaml(frame)
            if len(values) != 1 or not isinstance(values[0], dict) or values[0].get("items") != []:
                return None
            if (values[0].get("apiVersion"), values[0].get("kind")) != ("v1", "List"):
                return None
            for item in items:
                digests.append(_digest(item.text.encode()))
                made += self._item(item, digests[-1])
        except DocumentError:
            digests.clear()
            return None
        return tuple(made)

    def _item(self, item: Piece, digest: bytes) -> _Made:
        if digest in self._known:
            self._used[digest] = self._known[digest]
            return self._known[digest]
        values = parse_yaml(item.text)
        if len(values) != 1 or not isinstance(values[0], list) or len(values[0]) != 1:
            raise DocumentError("is not one item of a list")
        return self._remembered(digest, values[0])

    def _remembered(self, digest: bytes, values: list[Any]) -> _Made:
        made = self._known.get(digest)
        if made is None:
            made = tuple(self._decoded(values))
        self._used[digest] = made
        return made

    def _decoded(self, values: Any) -> Iterator[Decoded]:
        for value in values:
            yield from self._decode(value, self._origin)


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
