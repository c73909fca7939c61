"""Ids from clients are checked here before anything is done with them, and ids of our own are made here."""

from __future__ import annotations

import re
import uuid

from enlight_common.errors import InvalidField

ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ID = re.compile(ID_PATTERN)
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_id(value: object, field: str) -> str:
    """Return `value` if it may name a file or folder of ours; raise InvalidField(field) if not.

    What passes has no separator, no leading dot and at most 64 ASCII characters, so joining it to a folder
    stays inside that folder.
    """
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise InvalidField(
        field, "must be 1 to 64 letters, digits, dots, underscores or hyphens, the first a letter or digit"
    )


def is_request_id(value: str) -> bool:
    """Whether a request id that came in is fit to be logged and sent back."""
    return _REQUEST_ID.fullmatch(value) is not None


def new_request_id() -> str:
    """32 hexadecimal digits."""
    return uuid.uuid4().hex
