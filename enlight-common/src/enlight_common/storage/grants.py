"""What a store's issuer is asked and answers, in JSON: the same models on both sides."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enlight_common.errors import InvalidField, StoreUnavailable
from enlight_common.storage.interface import MAX_KEY_BYTES, Method, check_key

MAX_PAGE = 1000
_ODD = "the issuer's answer is not the expected one"

Model = TypeVar("Model", bound=BaseModel)


class UrlRequest(BaseModel):
    """The body of `POST <base>/urls`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    method: Method = Field(description="What the URL is to allow")
    key: str = Field(max_length=MAX_KEY_BYTES, description="The object's key")


class Grant(BaseModel):
    """One transfer that the issuer allows: `headers` go with it, and nothing of the issuer's own."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(max_length=8192, pattern="^https?://[!-~]+$")
    headers: dict[str, str] = Field(default={}, max_length=32)
    expires_at: str = Field(description="RFC 3339")


class Entry(BaseModel):
    """An object: `size` in bytes, `modified` in seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(max_length=MAX_KEY_BYTES)
    size: int = Field(ge=0)
    modified: float


class Page(BaseModel):
    """Objects in the order of their keys; `next` is what to send as `after` for more, null at the end."""

    model_config = ConfigDict(frozen=True)

    objects: list[Entry] = Field(max_length=MAX_PAGE)
    next: str | None


def parse(model: type[Model], answer: Any) -> Model:
    """The issuer's answer as `model`. Raises StoreUnavailable: something else answered in its place."""
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise StoreUnavailable(_ODD) from error


def check_page(page: Page, prefix: str, after: str) -> None:
    """Raise StoreUnavailable unless the page's keys are keys, were asked for, and lead on."""
    last = after
    for entry in page.objects:
        try:
            check_key(entry.key)
        except InvalidField as error:
            raise StoreUnavailable(_ODD) from error
        if entry.key <= last or not entry.key.startswith(prefix):
            raise StoreUnavailable(_ODD)
        last = entry.key
    if page.next is not None and page.next <= after:
        raise StoreUnavailable(_ODD)
