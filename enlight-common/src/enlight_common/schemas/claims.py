"""How a worker beside a GPU gets jobs from main-api and reports on them.

    POST /internal/v1/claims                    ClaimRequest   -> 200 Claim, or 204 when there is none
    POST /internal/v1/jobs/<id>/renewal         Renewal        -> 200 Lease
    POST /internal/v1/jobs/<id>/pictures        PictureOffer   -> 200 PictureGrant
    POST /internal/v1/jobs/<id>/completion      Completion     -> 200 Completed
    POST /internal/v1/jobs/<id>/release         Release        -> 200 Completed

All of them carry `Authorization: Bearer <node key>`. A claim lends the job for `lease_s` seconds under a
fencing number that grows with every claim of the job. Whoever sends an older number, or a number whose lease
was given to another, gets 409 `lease-lost` and must write nothing more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from enlight_common.ids import ID_PATTERN

#: What a worker beside a GPU can do.
GpuKind = Literal["training", "generation"]
EndState = Literal["succeeded", "failed", "canceled"]
PictureFormat = Literal["png", "jpeg", "webp"]

#: Sent by main-api and by workers to an instance: on whose behalf a request is made.
TENANT_HEADER = "X-Enlight-Tenant"
#: `type` of the problem that answers whoever holds the job no more.
LEASE_LOST = "lease-lost"

MAX_WAIT_S = 30
MAX_LOG_BYTES = 8192
MAX_PICTURES = 16
MAX_PICTURE_BYTES = 100_000_000

JobId = Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fencing = Annotated[int, Field(ge=1, description="The number that came with the claim")]
PictureIndex = Annotated[int, Field(ge=0, lt=MAX_PICTURES)]
PictureBytes = Annotated[int, Field(ge=1, le=MAX_PICTURE_BYTES)]


class _Question(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class _Answer(BaseModel):
    # Not strict: a main-api that is newer than a worker may say more.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, protected_namespaces=())


class ClaimRequest(_Question):
    """What a worker can do, and how long it waits for something to do."""

    worker: str = Field(pattern=rf"^{ID_PATTERN}$", description="Its name, the same after a restart")
    kinds: list[GpuKind] = Field(min_length=1, max_length=8)
    base_models: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        min_length=1, max_length=64, description="The base models that its instance can load"
    )
    wait_s: float = Field(0, ge=0, le=MAX_WAIT_S)


class Claim(_Answer):
    """A job that is the worker's for `lease_s` seconds, and longer with each renewal.

    `input` of a training are the fields of `POST /train` without `IMAGE_LIST`, of a generation those of
    `POST /inference` without `image` and `mask`; the pictures stand behind the signed URLs.
    """

    job_id: JobId
    kind: GpuKind
    tenant: str
    input: dict[str, Any]
    attempt: int = Field(ge=1, description="1 for the first")
    fencing: Fencing
    lease_s: float = Field(gt=0)
    traceparent: str | None = None
    request_id: str | None = None
    photos: list[str] = Field(default=[], description="A training's photos: URLs to GET, in order")
    images: dict[str, str] = Field(default={}, description="A generation's image and mask: URLs to GET")


class Progress(_Question):
    """How far the job is. What is not known is left out."""

    fraction: float = Field(ge=0, le=1)
    step: int | None = Field(None, ge=0)
    total: int | None = Field(None, ge=0)
    seconds_left: float | None = Field(None, ge=0)
    loss: float | None = None
    phase: str | None = Field(None, max_length=64, description="What is being done, in a word")


class Renewal(_Question):
    """Keeps the lease; tells what there is to tell."""

    fencing: Fencing
    progress: Progress | None = None
    logs: str | None = Field(
        None, max_length=MAX_LOG_BYTES, description="Lines to append; the newest are kept"
    )


class Lease(_Answer):
    """The job is the worker's for another `lease_s` seconds; with `cancel` it is to stop and say canceled."""

    lease_s: float
    cancel: bool


class PictureOffer(_Question):
    """A picture that is about to be put."""

    fencing: Fencing
    index: PictureIndex
    format: PictureFormat
    size: PictureBytes
    sha256: Sha256


class PictureGrant(_Answer):
    """Where to `PUT` the picture with its Content-Length, and the key to name in the completion."""

    put_url: str
    key: str
    headers: dict[str, str] = Field(default={}, description="To send along with the PUT")


class StoredPicture(_Question):
    """A picture that was put."""

    index: PictureIndex
    key: str = Field(min_length=1, max_length=1024)
    format: PictureFormat
    width: int = Field(ge=1, le=65_535)
    height: int = Field(ge=1, le=65_535)
    seed: int | None = Field(None, ge=0)
    sha256: Sha256
    size: PictureBytes


class TrainedModel(_Question):
    """The model that a training stored."""

    model_id: str = Field(pattern=rf"^{ID_PATTERN}$")
    version: str = Field(pattern=rf"^{ID_PATTERN}$")
    method: str | None = Field(None, max_length=64)
    base: str | None = Field(None, max_length=200)
    learning_rate: float | None = None
    steps: int | None = Field(None, ge=0)
    bytes: int | None = Field(None, ge=0)


class Output(_Question):
    """What a job that succeeded made."""

    pictures: list[StoredPicture] = Field(default=[], max_length=MAX_PICTURES)
    model: TrainedModel | None = None
    settings: dict[str, Any] = Field(default={}, max_length=128, description="Every setting that was used")


class JobError(_Question):
    """Why a job failed."""

    type: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9-]*$")
    message: str = Field(max_length=2000)


class Completion(_Question):
    """How the job ended. The same completion may be sent again."""

    fencing: Fencing
    status: EndState
    output: Output | None = None
    error: JobError | None = None
    metrics: dict[str, float] = Field(
        default={}, max_length=32, description="`gpu_seconds` and what else was measured"
    )
    logs: str | None = Field(None, max_length=MAX_LOG_BYTES)


class Release(_Question):
    """Gives the job back unfinished. `counts` false: nothing was tried, as when the instance was busy."""

    fencing: Fencing
    reason: str = Field("", max_length=500)
    counts: bool = True


class Completed(_Answer):
    """The job's status after the call."""

    job_id: str
    status: str
