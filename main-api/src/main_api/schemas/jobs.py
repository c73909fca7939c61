"""Jobs as they are shown, listed and asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from main_api.jobs.states import Kind, Status
from main_api.schemas.strict import Strict

MAX_PAGE = 100

Cursor = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.-]+$")]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]


class _Shown(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class ShownPicture(_Shown):
    """A picture, by signed URL or in base64; both null once it was deleted."""

    index: int
    format: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    sha256: str
    size: int = Field(description="Bytes")
    url: str | None = None
    base64: str | None = None


class ShownStep(_Shown):
    """A step of a chain that is done: its own job, and its pictures."""

    kind: Kind
    job_id: str
    pictures: list[ShownPicture]


class ShownOutput(_Shown):
    """What the job has made so far; of a chain, `pictures` are the last step's."""

    pictures: list[ShownPicture]
    model: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    steps: list[ShownStep] | None = None


class ShownError(_Shown):
    type: str
    message: str


class JobUrls(_Shown):
    get: str
    cancel: str
    events: str


class ShownJob(_Shown):
    """A job of any kind. `progress` of one that waits has its `place` in the queue and `seconds_left`."""

    id: str
    kind: Kind
    status: Status
    input: dict[str, Any]
    output: ShownOutput | None
    error: ShownError | None
    progress: dict[str, Any] | None
    logs: str
    metrics: dict[str, Any]
    metadata: dict[str, Any]
    created_at: str
    started_at: str | None
    completed_at: str | None
    urls: JobUrls


class JobPage(_Shown):
    """Newest first; `next` is the `cursor` of the following page, null at the end."""

    jobs: list[ShownJob]
    next: str | None


class OutputForm(Strict):
    """How pictures are answered."""

    output: Literal["url", "base64"] = Field("url", description="Pictures by signed URL, or in base64")


class JobFilter(Strict):
    """Which jobs to list."""

    kind: Kind | None = None
    status: Status | None = None
    limit: Limit = 20
    cursor: Cursor | None = None
