"""The worker's settings, read from the environment once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from enlight_common.ids import ID_PATTERN
from enlight_common.schemas.claims import MAX_WAIT_S, GpuKind
from enlight_common.settings import Settings
from pydantic import Field, SecretStr, field_validator

_KINDS: tuple[GpuKind, ...] = ("training", "generation")


class WorkerSettings(Settings):
    """Each field is the environment variable of its name in capitals."""

    main_api_url: str = Field("http://127.0.0.1:8040", description="Where jobs come from")
    enlight_node_key: SecretStr = Field(min_length=16, description="What `main_api.keys` made for this node")
    instance_url: str = Field("http://127.0.0.1:5000", description="The dreambooth-api beside this worker")
    worker_name: str = Field("worker", pattern=rf"^{ID_PATTERN}$", description="One for each instance")
    base_models: str = Field("", description="Comma-separated; the instance's own base model by default")
    kinds: str = Field(",".join(_KINDS), description="Comma-separated")
    generations: int = Field(2, ge=1, le=16, description="At once; one is prepared while another is drawn")
    wait_s: float = Field(20, ge=0, le=MAX_WAIT_S, description="How long main-api may hold a claim open")
    silence_s: float = Field(
        300, ge=10, le=3600, description="A job is given up when main-api was silent for so long"
    )
    generation_s: float = Field(3600, ge=10, le=86_400, description="The longest that a drawing may take")
    grace_s: float = Field(30, ge=0, le=3600, description="For drawings in flight after SIGTERM")
    idle_s: float = Field(0, ge=0, le=86_400, description="It leaves after so long without a job; 0: never")
    data_dir: Path = Field(Path("data"), description="`workers/<name>.json` there tells how it goes")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("main_api_url", "instance_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an http or https URL")
        return value.rstrip("/")

    @field_validator("kinds")
    @classmethod
    def _are_kinds(cls, value: str) -> str:
        if not _split(value) or not set(_split(value)) <= set(_KINDS):
            raise ValueError(f"must be one or more of {', '.join(_KINDS)}")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def kind_list(self) -> list[GpuKind]:
        return [kind for kind in _KINDS if kind in _split(self.kinds)]

    @property
    def base_model_list(self) -> list[str]:
        return _split(self.base_models)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
