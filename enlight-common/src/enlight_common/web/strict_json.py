"""JSON from strangers: bounded before it is parsed, and checked for what Python's parser lets through."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from enlight_common.errors import InvalidField, InvalidRequest

MAX_DEPTH = 32
# Commas, colons and brackets. 50 MB of "[],[],…" would otherwise become a gigabyte of Python lists.
MAX_TOKENS = 200_000
MAX_QUOTES = 500_000  # those inside strings included; each is a turn of a loop

_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},:"))
_NAME = re.compile(r"[^A-Za-z0-9_.\-]")


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse `raw` as one JSON object in UTF-8 (RFC 8259).

    Refused: more than 32 levels or 200,000 separators and brackets, a key that appears twice, NaN, Infinity
    and numbers that are infinite as a double, lone surrogates and NUL characters.
    Raises InvalidRequest (400), or InvalidField (422) where one field can be named.
    """
    _check_structure(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("the body must be JSON in UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except InvalidField:
        raise
    except (ValueError, RecursionError):
        # ValueError also covers integers of more digits than int() takes (4300).
        raise InvalidRequest("the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    _check_value(value, "")
    return value


def _check_structure(raw: bytes) -> None:
    if raw.count(b'"') > MAX_QUOTES:
        raise InvalidRequest(f"the body must hold at most {MAX_QUOTES} quotation marks")
    structure = _outside_strings(raw).translate(None, delete=_NOT_STRUCTURE)
    if len(structure) > MAX_TOKENS:
        raise InvalidRequest(f"the body must hold at most {MAX_TOKENS} separators and brackets")
    depth = 0
    for token in structure:
        if token in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidRequest(f"the body must be nested at most {MAX_DEPTH} deep")
        elif token in b"]}":
            depth -= 1


def _outside_strings(raw: bytes) -> bytes:
    """`raw` without its strings; one that never ends ends it. A hundred MB of pictures take milliseconds.

    A regular expression would take seconds, and hold up all other threads meanwhile.
    """
    parts = []
    start = 0
    while (opening := raw.find(b'"', start)) >= 0:
        parts.append(raw[start:opening])
        start = _end_of_string(raw, opening + 1)
    parts.append(raw[start:])
    return b"".join(parts)


def _end_of_string(raw: bytes, start: int) -> int:
    """Where the string whose content begins at `start` is over: past its closing quote."""
    while (quote := raw.find(b'"', start)) >= 0:
        if raw[quote - 1] != 0x5C:
            return quote + 1
        content = raw[start:quote]
        if (len(content) - len(content.rstrip(b"\\"))) % 2 == 0:
            return quote + 1
        start = quote + 1
    return len(raw)


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidField(printable_name(key), "appears more than once")
        found[key] = value
    return found


def printable_name(key: str) -> str:
    """A key as it may stand in an error or a log: at most 64 of [A-Za-z0-9_.-], others shown as `?`."""
    name = _NAME.sub("?", key[:65])
    return name if len(name) <= 64 else name[:61] + "..."


def _check_value(value: Any, path: str) -> None:
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidField(path, "must be a finite number")
    elif isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}.{printable_name(key)}" if path else printable_name(key)
            _check_text(key, here)
            _check_value(item, here)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_value(item, f"{path}[{index}]")


def _check_text(text: str, path: str) -> None:
    if "\0" in text:
        raise InvalidField(path, "must not hold a NUL character")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidField(path, "must be valid Unicode, without lone surrogates") from None
