"""A yes or no of the kept calls, whose clients send it as a word."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator


def _in_words(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


#: Clients send words; a boolean is as clear.
Flag = Annotated[Literal["true", "false"], BeforeValidator(_in_words)]
