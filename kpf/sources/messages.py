"""What is wrong with an object, in words. Pure."""

from typing import Any

MAX_TEXT = 300

_EXPECTED = {
    "string_type": "must be text",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "string_pattern_mismatch": "must be a name: lower case letters, digits and '-'",
}


def path_of(place: tuple[int | str, ...]) -> str:
    """A field's path as the API server writes it: spec.ports[0].port, metadata.labels[example.com/a]."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isascii() and part.isalnum():
            path += f".{part}" if path else part
        else:
            path += f"[{part if part.isascii() and part.isprintable() and len(part) < 80 else shown(part)}]"
    return path


def message_of(error: Any) -> str:
    """What pydantic found wrong, in the words of this project. `error`: one of `ValidationError.errors()`."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "literal_error":
        expected = str(context["expected"]).removeprefix("'', ")
        return f"must be one of {expected}, not {shown(given)}"
    if kind == "value_error":
        return f"{context['error']}, not {shown(given)}"
    if kind in ("greater_than_equal", "less_than_equal"):
        limit = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return f"must be {limit}, not {shown(given)}"
    return f"{_EXPECTED.get(kind, error['msg'])}, not {shown(given)}"


def shown(value: object) -> str:
    """A value for a message: on one line, and short however large it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false"}.get(value, "null") if value is not None else "null"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    text = repr(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def short(text: str) -> str:
    """What others have written: on one line, printable, and not long."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * MAX_TEXT]).split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 3] + "..."
