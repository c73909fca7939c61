"""What ``GET /models`` tells."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StoredModel(BaseModel):
    """One version of a trained model.

    ``bytes`` is the size of its files, ``cached_bytes`` what it takes of this machine's disk and
    ``loaded_bytes`` of this instance's memory. ``last_used`` is when any instance of this machine last
    opened it.
    """

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    version: str
    method: str
    base: str
    instance_prompt: str
    bytes: int
    created_at: str
    cached: bool
    cached_bytes: int
    last_used: str | None
    pinned: bool
    loaded: bool
    loaded_bytes: int


class BaseModelAnswer(BaseModel):
    """The base model that this instance draws with and trains on; `revision` where it has one."""

    name: str
    revision: str | None


class ModelList(BaseModel):
    """The base model that this instance draws with, all trained models of the store, and what this machine's
    cache takes and may take of the disk.
    """

    base: str
    cache_bytes: int
    cache_max_bytes: int
    models: list[StoredModel]
