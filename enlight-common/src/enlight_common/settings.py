"""Settings out of the environment, read once at the start."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=1, le=65535)]
#: Of a server. Half of them at most wait for something; a thread that waits costs some 100 KB.
Threads = Annotated[int, Field(ge=8, le=1024)]
#: What computes: the machine's processor or one of its GPUs.
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")]
PatienceSeconds = Annotated[
    int, Field(ge=1, le=86_400, description="What would take longer is refused or stopped")
]


class SettingsError(Exception):
    """A variable is missing or wrong; the message names it and its bound, never its value, maybe a secret."""


class Settings(BaseSettings):
    """What a service's settings derive from: each field is read from the variable of its name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

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


class ServerSettings(Settings):
    """Those of every HTTP service; each gives a port and sizes of its own."""

    host: str = Field("127.0.0.1", min_length=1, description="Mind who reaches what asks for no key")
    port: Port
    threads: Threads = 64
    grace_s: int = Field(30, ge=0, le=3600, description="Seconds for what is in flight after SIGTERM")
    max_body_mb: int = Field(64, ge=1, le=2048)

    @property
    def max_body_bytes(self) -> int:
        """Bound of a request body in bytes."""
        return self.max_body_mb * 1024 * 1024
