"""Trained models as they are shown, listed, renamed and downloaded."""

from __future__ import annotations

from typing import Annotated

from enlight_common.ids import ID_PATTERN
from pydantic import BaseModel, ConfigDict, Field

from main_api.schemas.jobs import Cursor, Limit
from main_api.schemas.strict import Strict

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Shown(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class ShownVersion(_Shown):
    """One training's result."""

    version: str
    method: str | None
    base_model: str | None
    bytes: int
    job_id: str | None = Field(description="The training; null for one that did not come through here")
    created_at: str


class ShownModel(_Shown):
    """A trained model; `model_id` is what jobs name, `name` is for people."""

    model_id: str
    name: str
    base_model: str | None
    instance_prompt: str | None
    versions: list[ShownVersion] = Field(description="The newest last; it is the one that is drawn with")
    created_at: str
    updated_at: str


class ModelPage(_Shown):
    """By their ids; `next` is the `cursor` of the following page, null at the end."""

    models: list[ShownModel]
    next: str | None


class DownloadFile(_Shown):
    path: str
    size: int = Field(description="Bytes")
    sha256: str
    url: str


class Download(_Shown):
    """Every file of a version, with signed URLs; `path` is relative to the model's folder."""

    model_id: str
    version: str
    files: list[DownloadFile]


class PageQuery(Strict):
    """Which page."""

    limit: Limit = 20
    cursor: Cursor | None = None


class VersionQuery(Strict):
    """Which version; the newest where not given."""

    version: Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")] | None = None


class RenameBody(Strict):
    name: Name
