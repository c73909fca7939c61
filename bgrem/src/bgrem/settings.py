"""The service's settings, read from the environment once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from enlight_common.ids import ID_PATTERN
from enlight_common.settings import Settings
from pydantic import Field, field_validator


class ServiceSettings(Settings):
    """Each field is the environment variable of its name in capitals."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="There is no key to this API: mind who reaches it"
    )
    port: int = Field(4000, ge=1, le=65535)
    weights_dir: Path = Field(Path("data/weights"), description="Models are in its folder `rembg`")
    default_model: str = Field(
        "u2net", pattern=rf"^{ID_PATTERN}$", description="For requests that name none; loaded at the start"
    )
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")] = "cpu"
    compute_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Of a network on the CPU; by default all cores that the process may use",
    )
    max_loaded_models: int = Field(
        3, ge=1, le=64, description="Beside the default one; a model in two precisions is counted twice"
    )
    max_pixels: int = Field(40_000_000, ge=1_000, le=200_000_000, description="Of one picture")
    max_body_mb: int = Field(64, ge=1, le=1024)
    #: Waiting requests take at most half of them; a thread that waits costs some 100 KB.
    threads: int = Field(64, ge=8, le=1024)
    grace_s: int = Field(30, ge=0, le=3600, description="Seconds for what is in flight after SIGTERM")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def max_body_bytes(self) -> int:
        """Bound of a request body in bytes."""
        return self.max_body_mb * 1024 * 1024
