"""YAML and JSON text: what scalars mean, where errors are, that work is bounded, and that splitting changes nothing."""

import contextlib
import math
from itertools import chain
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpf.documents import (
    MAX_ALIASED_VALUES,
    DocumentError,
    Piece,
    parse_json,
    parse_yaml,
    plain_value,
    split_documents,
    split_items,
)

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20) | st.sampled_from(
    ["- a", "\n- a", "a\n---\nb", "items:", "---", "x: y", "#", "", "yes", "1e3", "0777", "a\n  - b\n- c", "%x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", None), ("~", None), ("null", None), ("nil", "nil")),
        *(("true", True), ("Yes", True), ("OFF", False), ("y", "y"), ("tRUE", "tRUE")),
        *(("0", 0), ("-12", -12), ("1_000", 1000), ("0x1F", 31), ("0777", 511), ("0o17", "0o17"), ("0b101", 5)),
        *(("08", "08"), ("0x", "0x"), ("1:30", "1:30"), ("-", "-"), ("10.0.0.1", "10.0.0.1"), ("9" * 5000, "9" * 5000)),
        *(
            ("1.5", 1.5),
            (".5", 0.5),
            ("1e3", "1e3"),
            ("-1.5e+3", -1500.0),
            (".inf", math.inf),
            ("1e", "1e"),
            ("2025-01-31", "2025-01-31"),
        ),
        ("2025-01-31T12:00:00Z", "2025-01-31T12:00:00Z"),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    found = plain_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a: '1'\nb: \"true\"\nc: !!str 5\nd: |\n  x\n", [{"a": "1", "b": "true", "c": "5", "d": "x\n"}]),
        ("1: a\ntrue: b", [{"1": "a", "true": "b"}]),
        (
            "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: [*x]",
            [{"a": {"p": 1, "q": 2}, "b": {"q": 3, "p": 1}, "c": [{"p": 1, "q": 2}]}],
        ),
        ("--- 1\n--- [2]\n...\n", [1, [2]]),
        ("# nothing\n", []),
    ],
)  # fmt: skip
def test_yaml_values(text: str, values: list[Any]) -> None:
    assert parse_yaml(text) == values


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1, 2\nc: 3", 3, "not YAML"),
        ("a: 1\n\tb: 2", 2, "not YAML"),
        ("a: 1\nb: \x07", 2, "not YAML"),
        ("a: 1\nb: 2\na: 3", 3, "'a' is given twice"),
        ("a: *nobody", 1, "*nobody has no anchor"),
        ("a: 1\nb: !!python/object:os.system x", 2, "not supported"),
        ("a:\n  ? [x]\n  : 1", 2, "a key must be text"),
        ("a:\n  <<: 1", 2, "merge key"),
        ("a: 1\nx: " + "[" * 300, 2, "nested deeper"),
    ],
)
def test_yaml_errors_have_their_line(text: str, line: int, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)
    assert caught.value.line == line
    assert words in caught.value.message
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text, first_line=101)
    assert caught.value.line == line + 100


def test_aliases_cannot_stand_for_more_than_a_bounded_number_of_values() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    with pytest.raises(DocumentError, match=f"more than {MAX_ALIASED_VALUES} values") as caught:
        parse_yaml(bomb)
    assert caught.value.line == 5


def test_json() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(DocumentError, match="is not JSON") as caught:
        parse_json(b'{"a": 1,\n "b": }')
    assert caught.value.line == 2


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(DocumentError):
        parse_yaml(text)


@given(VALUES)
def test_what_pyyaml_writes_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.dump(value, Dumper=yaml.CSafeDumper)) == [value]


@given(st.lists(VALUES, max_size=4), st.booleans(), st.sampled_from([None, '"', "'"]))
def test_documents_split_as_they_parse(values: list[Any], explicit: bool, style: str | None) -> None:
    text = yaml.dump_all(values, Dumper=yaml.CSafeDumper, explicit_end=explicit, default_style=style)
    pieces = split_documents(text)
    assert "".join(piece.text for piece in pieces) == text
    assert list(chain.from_iterable(parse_yaml(piece.text) for piece in pieces)) == parse_yaml(text)
    for piece in pieces:
        assert piece.first_line == 1 + text.count("\n", 0, text.index(piece.text)) or text.count(piece.text) > 1


class _Indented(yaml.SafeDumper):
    """Indents lists under their key, as many editors do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:  # noqa: ARG002
        return super().increase_indent(flow, False)


@given(
    st.lists(VALUES, min_size=1, max_size=5),
    st.sampled_from([yaml.SafeDumper, _Indented]),
    st.sampled_from([None, '"', "'"]),
)
def test_a_list_splits_into_its_items_or_says_that_it_cannot(items: list[Any], dumper: Any, style: str | None) -> None:
    document = {"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"a": ["b"]}}
    text = yaml.dump(document, Dumper=dumper, default_style=style, width=20)
    parts = split_items(Piece(text, 11))
    if parts is None:
        return
    frame, pieces = parts
    try:
        found = [parse_yaml(piece.text) for piece in pieces]
        assert parse_yaml(frame) == [{**document, "items": []}]
    except DocumentError:
        return
    assert found == [[[item]] for item in items]
    assert pieces[0].first_line == 11 + text[: text.index(pieces[0].text)].count("\n")


@pytest.mark.parametrize("dumper", [yaml.CSafeDumper, _Indented])
def test_what_kubectl_writes_does_split(dumper: Any) -> None:
    items = [{"kind": "Service", "spec": {"ports": [{"port": 80}, {"port": 81}]}}, {"kind": "X", "text": "a\n- b\n"}]
    text = yaml.dump({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {}}, Dumper=dumper)
    parts = split_items(Piece(text, 1))
    assert parts is not None
    assert [parse_yaml(piece.text) for piece in parts[1]] == [[[item]] for item in items]


def test_an_item_that_is_not_where_it_should_be_prevents_the_split() -> None:
    assert split_items(Piece("items:\n  - a: 1\n - b: 2\n", 1)) is None
    assert split_items(Piece("data:\n  items:\n  - a: 1\n", 1)) is None
