from __future__ import annotations

import contextlib
import json
import math

import pytest
from enlight_common.errors import EnlightError, InvalidField, InvalidRequest
from enlight_common.web.strict_json import MAX_DEPTH, MAX_QUOTES, MAX_TOKENS, parse_object, printable_name
from hypothesis import given
from hypothesis import strategies as st

clean_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | clean_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(clean_text, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(clean_text, values, max_size=5), st.booleans())
def test_agrees_with_the_standard_parser_on_objects_within_bounds(value, ascii_only: bool):
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_object(raw) == json.loads(raw)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_object_or_one_of_our_errors(raw: bytes):
    with contextlib.suppress(InvalidRequest, InvalidField):
        assert isinstance(parse_object(raw), dict)


@given(st.text(alphabet='{}[]",:\\ud80a1e9. tn', max_size=60))
def test_what_it_takes_the_standard_parser_takes_alike(text: str):
    try:
        value = parse_object(text.encode())
    except EnlightError:
        return
    assert value == json.loads(text)


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


def test_takes_as_many_levels_as_the_bound_and_not_one_more():
    assert parse_object(nested(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match=str(MAX_DEPTH)):
        parse_object(nested(MAX_DEPTH + 1))


@given(st.lists(clean_text | st.text(alphabet='\\"[]', max_size=8), max_size=6), st.integers(0, 40))
def test_levels_are_counted_right_whatever_the_strings_before_them_hold(texts: list[str], levels: int):
    raw = json.dumps({"a": texts, "b": 1})[:-1].encode() + b', "c": ' + b"[" * levels + b"]" * levels + b"}"
    if levels == 0:
        raw = json.dumps({"a": texts}).encode()
    if levels + 1 <= MAX_DEPTH:
        assert parse_object(raw) == json.loads(raw)
    else:
        with pytest.raises(InvalidRequest, match="nested at most"):
            parse_object(raw)


def test_brackets_inside_strings_do_not_count_as_levels():
    assert parse_object(json.dumps({"a": "[" * 1000, '"[\\': '\\"[' * 1000}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"[" * 20_000, id="20,000 opening brackets"),
        pytest.param(b'{"a":' * 20_000, id="20,000 opening braces"),
        pytest.param(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}", id="20,000 levels, closed"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"{}{}", id="two objects"),
        pytest.param(b'{"a": 1,}', id="a trailing comma"),
        pytest.param(b'{"a": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', id="a surrogate in UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', id="a byte order mark"),
        pytest.param('{"a": 1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", id="an integer of 5,000 digits"),
        pytest.param(b'{"a": "\n"}', id="a raw control character"),
        pytest.param(b'{"a": [' + b"1," * MAX_TOKENS + b"1]}", id="too many values"),
        pytest.param(b'{"a": "' + b'\\"' * 400_000, id="a string that never ends"),
        pytest.param(b'{"a": "' + b'\\"' * MAX_QUOTES + b'"}', id="too many quotation marks"),
        pytest.param(b'{"a": "b\\\\", ' + b"[" * 40, id="levels after a string that ends in a backslash"),
    ],
)
def test_refuses_as_a_bad_request(raw: bytes):
    with pytest.raises(InvalidRequest):
        parse_object(raw)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        pytest.param(b'{"LR": NaN}', "LR", id="NaN"),
        pytest.param(b'{"LR": -Infinity}', "LR", id="minus infinity"),
        pytest.param(b'{"LR": 1e309}', "LR", id="1e309"),
        pytest.param(b'{"a": {"b": [1, 1e999]}}', "a.b[1]", id="an infinite number inside"),
        pytest.param(b'{"a": "\\ud800"}', "a", id="a lone high surrogate"),
        pytest.param(b'{"a": ["x", "\\udc00\\ud800"]}', "a[1]", id="surrogates the wrong way round"),
        pytest.param(b'{"\\ud800": 1}', "?", id="a lone surrogate as key"),
        pytest.param(b'{"a": "b\\u0000c"}', "a", id="NUL"),
        pytest.param(b'{"a": 1, "b": {"c": 1, "c": 2}}', "c", id="a key twice"),
    ],
)
def test_names_the_field_that_holds_what_json_must_not(raw: bytes, field: str):
    with pytest.raises(InvalidField) as caught:
        parse_object(raw)
    assert caught.value.field == field


def test_a_surrogate_pair_is_one_character():
    assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}


def test_the_largest_finite_number_passes():
    assert math.isfinite(parse_object(b'{"a": 1.7976931348623157e308}')["a"])


@given(st.text())
def test_a_printable_name_is_short_and_plain(key: str):
    name = printable_name(key)
    assert len(name) <= 64
    assert name.isascii()
    assert name.isprintable()
