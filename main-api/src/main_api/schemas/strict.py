"""What every body derives from, and the types that several share."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from enlight_common.ids import ID_PATTERN
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

MAX_METADATA = 64
#: It comes back with every claim, event, webhook and list.
MAX_METADATA_BYTES = 16 * 1024
#: What a record can hold.
_LEAST_INTEGER, _MOST_INTEGER = -(2**63), 2**63 - 1
#: Base64 of the largest picture that is taken, and a `data:` URL's head.
MAX_SOURCE_CHARACTERS = 27_000_000

RecordId = Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")]
ModelId = Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")]
PictureSource = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_SOURCE_CHARACTERS,
        description="A picture in base64 or as a base64 `data:` URL, or one that is here already:"
        " `upload:<id>`, or `job:<id>/<index>` of a job that made it",
    ),
]
WebhookEvent = Literal["start", "output", "logs", "completed"]


class Strict(BaseModel):
    """Immutable; unknown keys are refused, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, protected_namespaces=()
    )


def _fits_a_record(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not _integers_fit(metadata):
        raise ValueError("must hold only integers of 64 bits")
    if len(json.dumps(metadata, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes of JSON")
    return metadata


def _integers_fit(value: JsonValue) -> bool:
    if isinstance(value, dict):
        return all(_integers_fit(one) for one in value.values())
    if isinstance(value, list):
        return all(_integers_fit(one) for one in value)
    return not isinstance(value, int) or _LEAST_INTEGER <= value <= _MOST_INTEGER


class JobRequest(Strict):
    """What every request for a job may say beside its work."""

    metadata: Annotated[
        dict[Annotated[str, Field(max_length=200)], JsonValue], AfterValidator(_fits_a_record)
    ] = Field(
        {},
        max_length=MAX_METADATA,
        description=f"The caller's own, at most {MAX_METADATA_BYTES} bytes of JSON; given back with the job",
    )
    webhook: Annotated[str, Field(max_length=2000, pattern=r"^https?://[!-~]+$")] | None = Field(
        None, description="A URL that the job is posted to"
    )
    webhook_events_filter: list[WebhookEvent] = Field(["completed"], max_length=4)

    def work(self) -> dict[str, Any]:
        """What was asked for, without what is only about the request; unset fields are left out."""
        return self.model_dump(
            mode="json",
            exclude_none=True,
            exclude={"metadata", "webhook", "webhook_events_filter", "then"},
        )
