"""Uploads and photo sets."""

from __future__ import annotations

from typing import Annotated

from enlight_common.errors import InvalidField
from pydantic import BaseModel, Field

from main_api.schemas.models import Name
from main_api.schemas.strict import MAX_SOURCE_CHARACTERS, PictureSource, RecordId, Strict

MAX_FILE_BYTES = 20_000_000


class UploadBody(Strict):
    """A picture in base64, or the size of one that is going to be put."""

    data: Annotated[str, Field(min_length=1, max_length=MAX_SOURCE_CHARACTERS)] | None = Field(
        None, description="In base64"
    )
    size: int | None = Field(
        None, ge=1, le=MAX_FILE_BYTES, description="Bytes: the answer has a signed URL to put them to"
    )

    def check_together(self) -> None:
        """Raises InvalidField unless one of the two fields is given."""
        if (self.data is None) == (self.size is None):
            raise InvalidField("data", "is required, or size in its place")


class ShownUpload(BaseModel):
    """An upload; requests name it as `upload:<id>`."""

    id: str
    size: int = Field(description="Bytes")
    source: str = Field(description="How requests name it")
    put_url: str | None = Field(None, description="Where to PUT the picture, with its Content-Length")


class Uploads(BaseModel):
    """One for each picture that was sent."""

    uploads: list[ShownUpload]


class PhotoSetBody(Strict):
    """Photos of one subject."""

    name: Name = "photos"
    photos: Annotated[list[PictureSource], Field(min_length=1, max_length=64)]


class ShownPhoto(BaseModel):
    size: int = Field(description="Bytes")
    sha256: str | None
    url: str | None


class ShownPhotoSet(BaseModel):
    """Trainings name it as `photo_set`."""

    id: RecordId
    name: str
    photos: list[ShownPhoto]
    created_at: str


class PhotoSetPage(BaseModel):
    """Newest first; `next` is the `cursor` of the following page, null at the end."""

    photo_sets: list[ShownPhotoSet]
    next: str | None
