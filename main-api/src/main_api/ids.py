"""Ids of records: sortable by time, or made of what they stand for where there must be one of it."""

from __future__ import annotations

import hashlib
import secrets

from main_api.clock import now_ms

# Crockford's digits in lower case: no i, l, o or u to be misread.
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_DIGITS = 10  # 48 bits of milliseconds
_RANDOM_DIGITS = 16  # 80 bits


def new_id() -> str:
    """26 characters that sort by the time they were made (ULID, in lower case)."""
    return _encode(now_ms(), _TIME_DIGITS) + _encode(secrets.randbits(80), _RANDOM_DIGITS)


def derived_id(*parts: str) -> str:
    """26 characters that are the same for the same parts, and for no others."""
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "replace"))
    return _encode(int.from_bytes(digest.digest()[:16]) >> 2, _TIME_DIGITS + _RANDOM_DIGITS)


def step_id(chain_id: str, index: int) -> str:
    """The id of a chain's step: there is one of each, and they sort behind their chain."""
    return f"{chain_id}.{index}"


def _encode(number: int, digits: int) -> str:
    return "".join(_DIGITS[(number >> 5 * place) & 31] for place in reversed(range(digits)))
