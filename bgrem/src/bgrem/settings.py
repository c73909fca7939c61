"""The service's settings, read from the environment once."""

from __future__ import annotations

from pathlib import Path

from enlight_common.ids import ID_PATTERN
from enlight_common.settings import Device, Port, ServerSettings
from pydantic import Field


class ServiceSettings(ServerSettings):
    """Each field is the environment variable of its name in capitals."""

    port: Port = 4000
    weights_dir: Path = Field(Path("data/weights"), description="Models are in its folder `rembg`")
    default_model: str = Field(
        "u2net", pattern=rf"^{ID_PATTERN}$", description="For requests that name none; loaded at the start"
    )
    device: Device = "cpu"
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
