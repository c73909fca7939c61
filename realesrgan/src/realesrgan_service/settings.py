"""The service's settings, read from the environment once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from enlight_common.settings import Device, PatienceSeconds, Port, ServerSettings, Threads
from pydantic import Field, model_validator

from realesrgan_service.models.catalog import ALIASES, DEFAULT, Catalog
from realesrgan_service.models.conversion import NCNN_STEMS
from realesrgan_service.models.published import UPSCALERS

_MAX_NAMES = 50  # in an error's text


class ServiceSettings(ServerSettings):
    """Each field is the environment variable of its name in capitals."""

    port: Port = 11111
    weights_dir: Path = Field(Path("data/weights"), description="What dev-scripts/fetch-weights.sh fills")
    models_dir: Path | None = Field(
        None, description="Upscalers, and where to drop more; `realesrgan` in WEIGHTS_DIR by default"
    )
    model: str = Field(DEFAULT, description="What is loaded at the start, and used where none is named")
    fetch_models: bool = Field(True, description="Fetch known upscalers when they are first asked for")
    device: Device = "cpu"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tile: int = Field(
        768, ge=32, le=4096, description="Pixels of the network's input that a tile is wide; none is larger"
    )
    max_resolution: int = Field(8192, ge=1025, le=16_384, description="Longer side of an answer, in pixels")
    max_loaded: int = Field(4, ge=1, le=64, description="Networks kept in memory")
    patience_s: PatienceSeconds = 900
    threads: Threads = 32
    max_body_mb: int = Field(32, ge=1, le=512, description="A picture of 20 MB in base64 is 27 MB")

    @model_validator(mode="after")
    def _model_is_known(self) -> Self:
        # Here, so that a misspelt name ends the start, instead of a service that is never ready.
        here = {model.name for model in Catalog(self.models_folder).files()}
        names = sorted({*here, *NCNN_STEMS, *(UPSCALERS if self.fetch_models else ())})
        if ALIASES.get(self.model, self.model) not in names:
            raise ValueError(f"MODEL: must be one of {', '.join(names[:_MAX_NAMES])}")
        return self

    @property
    def models_folder(self) -> Path:
        """Where the upscalers are."""
        return self.models_dir or self.weights_dir / "realesrgan"
