"""Settings out of the environment, read once at the start."""

from __future__ import annotations

from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """A variable is missing or wrong; the message names it and its bound, never its value, maybe a secret."""


class Settings(BaseSettings):
    """What a service's settings derive from: each field is read from the variable of its name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment. Raises SettingsError that names every wrong variable."""
        try:
            return cls()
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in item['loc']).upper()}: "
                + (
                    "is required"
                    if item["type"] == "missing"
                    else item["msg"].replace("Input should", "must")
                )
                for item in error.errors(include_url=False, include_input=False)
            ]
        raise SettingsError("wrong settings: " + "; ".join(lines))
