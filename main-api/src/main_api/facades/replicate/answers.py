"""The answers that Replicate's client reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

ReplicateStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]


class _Shown(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Prediction(_Shown):
    """A job that draws."""

    id: str
    model: str
    version: str
    input: dict[str, Any]
    output: list[str | None] | None
    logs: str
    error: str | None
    status: ReplicateStatus
    source: str
    data_removed: bool
    created_at: str
    started_at: str | None
    completed_at: str | None
    metrics: dict[str, Any]
    urls: dict[str, str]


class TrainingOutput(_Shown):
    version: str
    weights: str | None


class Training(_Shown):
    """A job that trains."""

    id: str
    model: str
    version: str
    destination: str | None
    input: dict[str, Any]
    output: TrainingOutput | None
    logs: str
    error: str | None
    status: ReplicateStatus
    source: str
    data_removed: bool
    created_at: str
    started_at: str | None
    completed_at: str | None
    metrics: dict[str, Any]
    urls: dict[str, str]


class Page(_Shown):
    """`next` is the address of the following page."""

    previous: str | None
    next: str | None
    results: list[dict[str, Any]]


class Version(_Shown):
    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any]


class Model(_Shown):
    """A model that can draw."""

    url: str
    owner: str
    name: str
    description: str | None
    visibility: Literal["public", "private"]
    github_url: str | None
    paper_url: str | None
    license_url: str | None
    run_count: int
    cover_image_url: str | None
    default_example: dict[str, Any] | None
    latest_version: Version | None


class File(_Shown):
    """A picture that was uploaded."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, Any]
    created_at: str
    expires_at: str | None
    urls: dict[str, str]


class Account(_Shown):
    type: Literal["organization", "user"]
    username: str
    name: str
    github_url: str | None
