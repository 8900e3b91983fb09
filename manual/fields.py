"""The fields of the configuration, as the model has them, with what is told of each."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from kpf.config import FLAGS, Config
from kpf.config.model import FIXED
from kpf.config.reader import FLAG_ONLY
from manual.settings import GROUPS, Setting

_FLAG_OF = {".".join(path): f"--{flag}" for flag, path in FLAGS.items() if path}


class Field(NamedTuple):
    """`name`: its path in a file. `default`: as a file would say it, or in words. `example`: a value for a file.

    `values`: all there are, where they are few words. `flag`: "" if it has none.
    """

    name: str
    text: str
    default: str
    example: str
    values: tuple[str, ...]
    flag: str
    needs_restart: bool


def groups() -> Iterator[tuple[str, list[Field]]]:
    """All fields in the order in which they are told. Raises LookupError if one is untold, or told and not there."""
    known = {name: more for name, *more in _walk(Config, ())}
    told = [name for group in GROUPS for name in group.settings]
    if wrong := set(told) ^ known.keys():
        raise LookupError(f"manual/settings.py and the model of the configuration differ in {', '.join(sorted(wrong))}")
    for group in GROUPS:
        yield group.title, [_field(name, one, *known[name]) for name, one in group.settings.items()]


def _walk(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, Any, bool]]:
    for name, field in model.model_fields.items():
        alias = str(field.alias)
        if alias in FLAG_ONLY:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, (*above, alias))
        else:
            yield ".".join((*above, alias)), field, not above and name in FIXED


def _field(name: str, setting: Setting, model_field: Any, needs_restart: bool) -> Field:
    default = "" if model_field.default_factory else _written(model_field.default)
    return Field(
        name,
        setting.text,
        default or setting.default or "none",
        default or setting.example,
        tuple(_values(model_field.annotation)),
        _FLAG_OF.get(name, ""),
        needs_restart,
    )


def _written(value: object) -> str:
    """As it is written into a file; "" for none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value in (None, ()) else str(value)


def _values(annotation: Any) -> Iterator[str]:
    others = [one for one in get_args(annotation) if one is not type(None)]
    words = others[0] if len(others) == 1 else annotation
    if get_origin(words) is Literal:
        yield from map(str, get_args(words))
