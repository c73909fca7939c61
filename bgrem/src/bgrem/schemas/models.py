"""The answer of ``GET /models``."""

from __future__ import annotations

from pydantic import BaseModel, Field


class OfferedModel(BaseModel):
    """A model that can be asked for by its name."""

    name: str
    here: bool = Field(description="Its weights are on this machine; else they are fetched at first use")
    loaded: list[str] = Field(description="The precisions in which it is in memory")


class ModelList(BaseModel):
    """Every model, and what the default one runs in."""

    default: str
    runtime: str
    device: str
    precisions: list[str] = Field(description="What can be asked for; the first is the default")
    models: list[OfferedModel]
