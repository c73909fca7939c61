"""The service's settings, read from the environment once."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from enlight_common.errors import EnlightError
from enlight_common.settings import Device, PatienceSeconds, Port, ServerSettings
from pydantic import Field, model_validator

from upsampler.models import SWIN2SR, TINY, resolve_upscaler


class UpsamplerSettings(ServerSettings):
    """Each field is the environment variable of its name in capitals."""

    port: Port = 4455
    weights_dir: Path = Field(Path("data/weights"), description="Its folder `upsampler` holds models, if any")
    upscaler: str = Field(TINY, min_length=1, description="What the engine `sd` draws with")
    swin2sr: str = Field(SWIN2SR, min_length=1, description="What the engine `swin2sr` runs")
    models_loaded: int = Field(2, ge=1, le=64, description="Models kept in memory at once")
    device: Device = "cpu"
    max_tile: int = Field(512, ge=32, le=1024, description="Pixels of the picture that are enlarged at once")
    patience_s: PatienceSeconds = 900
    queue_length: int = Field(16, ge=1, le=512, description="Pictures that may wait for their turn")
    max_body_mb: int = Field(32, ge=1, le=2048, description="A picture of 20 MB in base64")

    @model_validator(mode="after")
    def _are_known(self) -> Self:
        # Here, so that a misspelt name ends the start, instead of a service that is never ready.
        for field, name, engine in (("upscaler", self.upscaler, "sd"), ("swin2sr", self.swin2sr, "swin2sr")):
            try:
                found = resolve_upscaler(name, self.weights_dir, field.upper())
            except EnlightError as error:
                raise ValueError(error.detail) from None
            if found.engine != engine:
                raise ValueError(f"{field.upper()}: must be a model of the engine {engine}")
        return self
