"""What every body derives from, and the types that several share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from enlight_common.ids import ID_PATTERN
from pydantic import BaseModel, ConfigDict, Field, JsonValue

MAX_METADATA = 64
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


class JobRequest(Strict):
    """What every request for a job may say beside its work."""

    metadata: dict[Annotated[str, Field(max_length=200)], JsonValue] = Field(
        {}, max_length=MAX_METADATA, description="The caller's own; given back with the job"
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
