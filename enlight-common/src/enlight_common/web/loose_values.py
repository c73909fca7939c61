"""What pydantic's lax mode would let through where a number is asked for: `true` as 1, "nan", " 1_000 "."""

from __future__ import annotations

import math
import re
import types
import typing
from typing import Any

from pydantic import BaseModel

from enlight_common.errors import InvalidField

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")


def refuse_loose_numbers(model: type[BaseModel], value: dict[str, Any], path: str = "") -> None:
    """Raise InvalidField where a number field holds a boolean or a string that is no plain JSON number.

    Old clients send numbers as strings ("400"); those pass and are read by pydantic.
    """
    for name, field in model.model_fields.items():
        for key in {name, field.alias, *_aliases(field.validation_alias)}:
            if key is not None and key in value:
                _check(field.annotation, value[key], f"{path}{key}")


def _aliases(alias: object) -> list[str]:
    if isinstance(alias, str):
        return [alias]
    choices = getattr(alias, "choices", None)
    return [choice for choice in choices if isinstance(choice, str)] if choices else []


def _check(annotation: Any, value: Any, path: str) -> None:
    options = _options(annotation)
    wants_number = int in options or float in options
    if wants_number and isinstance(value, bool) and bool not in options:
        raise InvalidField(path, "must be a number")
    if wants_number and isinstance(value, str) and not _takes_text(options) and not _is_number(value):
        raise InvalidField(path, "must be a number")
    for option in options:
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if isinstance(value, list) and origin in (list, tuple, set, frozenset) and arguments:
            for index, item in enumerate(value):
                _check(arguments[0], item, f"{path}[{index}]")
        elif isinstance(value, dict) and origin is dict and len(arguments) == 2:
            for key, item in value.items():
                _check(arguments[1], item, f"{path}.{key}")
        elif isinstance(value, dict) and isinstance(option, type) and issubclass(option, BaseModel):
            refuse_loose_numbers(option, value, f"{path}.")


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _options(annotation: Any) -> list[Any]:
    """The members of a union, and the annotation itself if it is none; Annotated is looked through."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in _options(member)]
    return [annotation]


def _takes_text(options: list[Any]) -> bool:
    return any(option is str or typing.get_origin(option) is typing.Literal for option in options)
