"""The service's settings, read from the environment once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from enlight_common.errors import EnlightError
from enlight_common.settings import ServerSettings
from pydantic import Field, field_validator

from dreambooth_api.models.bases import TINY, resolve_base
from dreambooth_api.training.orders import SharingPolicy


class ServiceSettings(ServerSettings):
    """Each field is the environment variable of its name in capitals."""

    port: int = Field(5000, ge=1, le=65535)
    instance_name: str = Field("cpu0", pattern=r"^[a-z][a-z0-9]{0,15}$", description="First part of run ids")
    data_dir: Path = Field(Path("data"), description="Trainings and run states; shared by a node's instances")
    base_model: str = Field(TINY, min_length=1)
    model_store_url: str | None = Field(
        None,
        description="file://, gs://, s3:// or enlight+https://; the folder `store` in DATA_DIR by default",
    )
    cache_dir: Path | None = Field(
        None, description="Models at hand, shared by a machine's instances; `cache` in DATA_DIR by default"
    )
    cache_max_gb: float = Field(50.0, gt=0, le=1_000_000, description="What CACHE_DIR may take of the disk")
    model_memory_gb: float = Field(4.0, gt=0, le=10_000, description="Trained models kept in memory")
    batch_memory_share: float = Field(
        0.4,
        gt=0,
        le=0.9,
        description="Of the device's memory that is free once the base model is in it (on the CPU, of the"
        " machine's), what the adapters of a batch may take as whole weights; those beyond it are slower",
    )
    compile_unet: Literal["auto", "on", "off"] = Field(
        "off",
        description="Compile the UNet's blocks at the start: `auto` on a GPU, and kept where that is faster;"
        " `on` also on a CPU, however fast. Starts take minutes longer, the first with a base model most",
    )
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")] = "cpu"
    #: Waiting requests take at most half of them; a thread that waits costs some 100 KB.
    threads: int = Field(64, ge=8, le=1024)
    checkpoint_store: bool = Field(
        False,
        description="Put every training's checkpoints into the model store; those with a lease always are",
    )
    trust_tenant_header: bool = Field(
        False,
        description="Take X-Enlight-Tenant from callers: only where main-api and workers alone are such",
    )
    spare_trainer: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Keep an idle process ready to train: a job starts some 5 s sooner, for 0.5 GB of memory"
        " and none of a GPU; `auto`: where 4 GB are free",
    )
    training_policy: SharingPolicy = Field(
        "interactive-first",
        description="While pictures are wanted a training pauses between its steps (but for one each 10 s),"
        " takes half of the time (`share`) or goes on (`training-first`)",
    )
    unfinished_max_gb: int = Field(64, ge=1, le=100_000, description="Checkpoints of trainings cut short")
    max_body_mb: int = Field(128, ge=1, le=2048, description="64 photos of 1.5 MB in base64")

    @field_validator("base_model")
    @classmethod
    def _is_supported(cls, value: str) -> str:
        # Here, so that a misspelt name ends the start, instead of a service that is never ready.
        try:
            return resolve_base(value).name
        except EnlightError as error:
            raise ValueError(error.detail) from None

    @field_validator("model_store_url")
    @classmethod
    def _is_a_store(cls, value: str | None) -> str | None:
        if value and urlsplit(value).scheme not in ("", "file", "gs", "s3", "enlight+https", "enlight+http"):
            raise ValueError("must be a file://, gs://, s3:// or enlight+https:// URL, or a folder")
        return value or None

    @property
    def store_url(self) -> str:
        """Where trained models are kept."""
        return self.model_store_url or (self.data_dir / "store").resolve().as_uri()

    @property
    def cache_folder(self) -> Path:
        """The folder of the model cache."""
        return self.cache_dir or self.data_dir / "cache"

    @property
    def cache_max_bytes(self) -> int:
        """Bound of everything in the cache's folder."""
        return int(self.cache_max_gb * 1e9)

    @property
    def model_memory_bytes(self) -> int:
        """Bound of the trained models in this process's memory."""
        return int(self.model_memory_gb * 1e9)
