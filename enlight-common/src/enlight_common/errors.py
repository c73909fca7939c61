"""Every error a service answers with. This module imports nothing but the standard library.

    EnlightError
    ├── InvalidRequest 400          the body is no JSON object, too deep, not UTF-8 …
    ├── Unauthorized 401
    ├── Forbidden 403               a signed URL that is not valid, or no longer
    ├── NotFound 404
    │   ├── UnknownModel
    │   └── NoSuchObject            the object store has nothing under this key
    ├── RequestTimedOut 408         the client sent its body too slowly
    ├── Conflict 409
    ├── LengthRequired 411
    ├── PayloadTooLarge 413
    ├── UnsupportedMedia 415
    ├── RangeNotSatisfiable 416
    ├── InvalidField 422            one field is wrong: `field` names it, the detail says its bound
    ├── WrongBaseModel 422
    ├── UnsupportedBaseModel 422
    ├── ClientLeft 499              nobody reads the answer any more
    ├── InternalError 500
    │   ├── TrainingFailed
    │   └── StoreDenied             the object store refused the service's own credentials or request
    ├── SigningUnavailable 501      the object store has no key to sign URLs with
    ├── StoreCorrupt 502            an object's bytes are not what was promised
    ├── Unavailable 503             nothing was done: send it again after `retry_after` seconds
    │   ├── Busy
    │   ├── Overloaded
    │   ├── OutOfMemory             the GPU, or the machine, has too little memory for this now
    │   ├── ShuttingDown
    │   └── StoreUnavailable        the object store cannot be reached, or stalls, after all attempts
    ├── TimedOut 504
    └── StorageFull 507

`enlight_common.web` turns them into RFC 9457 problems, in one place. A detail names the field and its bound
and never repeats the value that was sent.
"""

from __future__ import annotations

from typing import ClassVar, Self


class EnlightError(Exception):
    """The root. `status` is the HTTP status, `type` a stable slug, `title` the same words for every one.

    `detail` is for the caller to read; `retry_after` is in seconds; `extra` are further members of the
    problem (JSON values).
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something went wrong inside the service"
    default_retry_after: ClassVar[float | None] = None

    def __init__(self, detail: str, *, retry_after: float | None = None, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.extra = extra

    def __copy__(self) -> Self:
        """Another one like it, for another thread to raise; without its class's own way to make one."""
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update(self.__dict__)
        return other


class InvalidRequest(EnlightError):
    status = 400
    type = "invalid-request"
    title = "The request cannot be read"


class Unauthorized(EnlightError):
    status = 401
    type = "unauthorized"
    title = "A valid key is required"


class Forbidden(EnlightError):
    status = 403
    type = "forbidden"
    title = "This is not allowed"


class NotFound(EnlightError):
    status = 404
    type = "not-found"
    title = "There is nothing here"


class UnknownModel(NotFound):
    type = "unknown-model"
    title = "There is no such model"


class NoSuchObject(NotFound):
    type = "no-such-object"
    title = "There is no such object in the store"


class RequestTimedOut(EnlightError):
    status = 408
    type = "request-timeout"
    title = "The request arrived too slowly"


class Conflict(EnlightError):
    status = 409
    type = "conflict"
    title = "The request does not fit the present state"


class LengthRequired(EnlightError):
    status = 411
    type = "length-required"
    title = "The request must state its length"


class PayloadTooLarge(EnlightError):
    status = 413
    type = "payload-too-large"
    title = "The request body is too large"


class UnsupportedMedia(EnlightError):
    status = 415
    type = "unsupported-media-type"
    title = "The request body is of another media type"


class RangeNotSatisfiable(EnlightError):
    status = 416
    type = "range-not-satisfiable"
    title = "The range asked for is not in the object"


class InvalidField(EnlightError):
    """One field of a request is wrong.

    `field` is its name or path (`IMAGE_LIST[3]`); `reason` reads on from it: "must be at most 4000".
    """

    status = 422
    type = "invalid-field"
    title = "A field of the request is not valid"

    def __init__(self, field: str, reason: str, **extra: object) -> None:
        super().__init__(f"{field}: {reason}", retry_after=None, field=field, **extra)
        self.field = field
        self.reason = reason


class WrongBaseModel(EnlightError):
    status = 422
    type = "wrong-base-model"
    title = "The model belongs to another base model"


class UnsupportedBaseModel(EnlightError):
    status = 422
    type = "unsupported-base-model"
    title = "The base model is not supported"


class ClientLeft(EnlightError):
    """Nobody reads this answer; the status, nginx's own for the case, is for the log and the metrics."""

    status = 499
    type = "client-left"
    title = "The client closed its connection"


class InternalError(EnlightError):
    pass


class TrainingFailed(InternalError):
    type = "training-failed"
    title = "The training failed"


class StoreDenied(InternalError):
    type = "store-denied"
    title = "The object store refused the service"


class SigningUnavailable(EnlightError):
    status = 501
    type = "signing-unavailable"
    title = "The object store cannot sign URLs"


class StoreCorrupt(EnlightError):
    status = 502
    type = "store-corrupt"
    title = "An object is not what was promised"


class Unavailable(EnlightError):
    status = 503
    type = "unavailable"
    title = "The service cannot take this now"
    default_retry_after = 5.0


class Busy(Unavailable):
    type = "busy"
    title = "The service is busy with other work of this kind"


class Overloaded(Unavailable):
    type = "overloaded"
    title = "Too many requests are waiting"


class OutOfMemory(Unavailable):
    type = "out-of-memory"
    title = "There is not enough memory for the work"
    default_retry_after = 30.0


class ShuttingDown(Unavailable):
    type = "shutting-down"
    title = "The service is shutting down"


class StoreUnavailable(Unavailable):
    type = "store-unavailable"
    title = "The object store cannot be reached"


class TimedOut(EnlightError):
    status = 504
    type = "timed-out"
    title = "The work took longer than allowed"


class StorageFull(EnlightError):
    status = 507
    type = "storage-full"
    title = "There is not enough room on the disk"
