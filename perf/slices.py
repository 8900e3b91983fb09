"""A file with one EndpointSlice, whose endpoints are taken out and put back."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self

import yaml

from perf.subject import SubjectError

MAX_SIZE = 16 << 20


class SliceFile:
    """Such a file; usable as a context, after which it is as it was before. Raises `SubjectError`.

    It is only ever replaced as a whole, by a name that begins with a dot, so that nobody reads half of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            if path.stat().st_size > MAX_SIZE:
                raise SubjectError(f"{path}: more than {MAX_SIZE >> 20} MiB")
            self._original = path.read_bytes()
            self._documents = list(yaml.load_all(self._original, yaml.CSafeLoader))
        except (OSError, yaml.YAMLError) as error:
            raise SubjectError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
        slices = [one for one in self._objects() if one.get("kind") == "EndpointSlice"]
        if len(slices) != 1:
            raise SubjectError(f"{path}: must have exactly one EndpointSlice, and has {len(slices)}")
        (self._slice,) = slices
        self._endpoints = list(self._slice.get("endpoints") or [])
        if len(self._endpoints) < 2:
            raise SubjectError(f"{path}: the EndpointSlice must have two endpoints or more, so that one can stay")

    @property
    def addresses(self) -> list[str]:
        """The address of each endpoint, as the file has it."""
        return [endpoint["addresses"][0] for endpoint in self._endpoints]

    def write_without(self, out: Collection[int]) -> None:
        """Write the slice without the endpoints at these places; none: all are there."""
        self._slice["endpoints"] = [one for place, one in enumerate(self._endpoints) if place not in out]
        # JSON is YAML too, but not the reverse
        if self._path.suffix == ".json":
            text = json.dumps(self._documents[0])
        else:
            text = yaml.dump_all(self._documents, Dumper=yaml.CSafeDumper, sort_keys=False)
        self._replace(text.encode())

    def _objects(self) -> Iterator[dict[str, Any]]:
        for document in self._documents:
            if isinstance(document, dict):
                yield from (one for one in document.get("items", [document]) if isinstance(one, dict))

    def _replace(self, content: bytes) -> None:
        temporary = self._path.with_name(f".{self._path.name}.kpf-perf")
        temporary.write_bytes(content)
        shutil.copymode(self._path, temporary)
        os.rename(temporary, self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path.read_bytes() != self._original:
            self._replace(self._original)
