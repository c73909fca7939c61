"""What ``GET /models`` tells."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StoredModel(BaseModel):
    """One version of a trained model. ``bytes`` is the size of its files."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    version: str
    method: str
    base: str
    instance_prompt: str
    bytes: int
    created_at: str
    loaded: bool


class ModelList(BaseModel):
    """The base model that this instance draws with, and all trained models of the store."""

    base: str
    models: list[StoredModel]
