"""The bodies that Replicate's client sends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from enlight_common.errors import InvalidField
from enlight_common.ids import ID_PATTERN
from pydantic import Field, JsonValue

from main_api.facades.replicate.shapes import PREFIX
from main_api.schemas.strict import Strict, WebhookEvent

#: As Replicate's: told of new outputs and of the end.
_DEFAULT_EVENTS: list[WebhookEvent] = ["output", "completed"]
_MAX_FIELDS = 64
_FILE = re.compile(rf"https?://[!-~]{{1,500}}{re.escape(PREFIX)}/files/({ID_PATTERN})")

#: Replicate's models call these so; the others have the names of `GenerationBody`.
_GENERATION_NAMES = {"num_outputs": "num_images", "prompt_strength": "strength", "output_format": "format"}
_TRAINING_NAMES = {"input_images": "photos", "trigger_word": "instance_prompt", "max_train_steps": "steps"}
_PICTURES = ("image", "mask", "photos")

Url = Annotated[str, Field(max_length=2000, pattern=r"^https?://[!-~]+$")]
Input = Annotated[dict[Annotated[str, Field(max_length=64)], JsonValue], Field(max_length=_MAX_FIELDS)]


class _WithWebhook(Strict):
    input: Input = Field(default_factory=dict)
    webhook: Url | None = None
    webhook_completed: Url | None = Field(None, description="What `webhook` was called before")
    webhook_events_filter: list[WebhookEvent] | None = Field(None, max_length=4)

    def _webhook(self) -> dict[str, Any]:
        if self.webhook is not None:
            events = self.webhook_events_filter or _DEFAULT_EVENTS
            return {"webhook": self.webhook, "webhook_events_filter": events}
        if self.webhook_completed is not None:
            return {"webhook": self.webhook_completed, "webhook_events_filter": ["completed"]}
        return {}

    def shown_input(self) -> dict[str, Any]:
        """The input as it is given back: pictures are shown with the job."""
        names = {**_GENERATION_NAMES, **_TRAINING_NAMES}
        return {name: value for name, value in self.input.items() if names.get(name, name) not in _PICTURES}


class ModelPredictionBody(_WithWebhook):
    """A prediction of a model that the address names."""

    stream: bool | None = Field(None, description="Ignored: pictures are not streamed")

    def fields(self, model: str | None) -> dict[str, Any]:
        """The fields of the `GenerationBody` that it stands for. Raises InvalidField."""
        fields = _renamed(self.input, _GENERATION_NAMES)
        if fields.get("format") == "jpg":
            fields["format"] = "jpeg"
        return {**fields, **({"model_id": model} if model is not None else {}), **self._webhook()}


class PredictionBody(ModelPredictionBody):
    """A prediction of a version."""

    version: Annotated[str, Field(min_length=1, max_length=300)]


class ReplicateTrainingBody(_WithWebhook):
    """A training; `destination` is `<tenant>/<model id>`."""

    destination: Annotated[str, Field(pattern=rf"^{ID_PATTERN}/{ID_PATTERN}$")]

    def fields(self, base_model: str) -> dict[str, Any]:
        """The fields of the `TrainingBody` that it stands for. Raises InvalidField."""
        fields = _renamed(self.input, _TRAINING_NAMES)
        if isinstance(fields.get("photos"), str):
            fields["photos"] = [fields["photos"]]
        model_id = self.destination.partition("/")[2]
        return {**fields, "model_id": model_id, "base_model": base_model, **self._webhook()}


class NewModelBody(Strict):
    """A model to train: it is there once it was trained, and until then only named."""

    owner: Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")]
    name: Annotated[str, Field(pattern=rf"^{ID_PATTERN}$")]
    visibility: Annotated[str, Field(max_length=16)] = "private"
    hardware: Annotated[str, Field(max_length=64)] | None = None
    description: Annotated[str, Field(max_length=1000)] | None = None
    github_url: Annotated[str, Field(max_length=500)] | None = None
    paper_url: Annotated[str, Field(max_length=500)] | None = None
    license_url: Annotated[str, Field(max_length=500)] | None = None
    cover_image_url: Annotated[str, Field(max_length=500)] | None = None


def _renamed(given: Mapping[str, JsonValue], names: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in given.items():
        ours = names.get(name, name)
        if ours in ("metadata", "webhook", "webhook_events_filter", "model_id", "models", "base_model"):
            raise InvalidField(f"input.{name}", "is not an input")
        if ours in fields:
            raise InvalidField(f"input.{name}", "is given twice, under two names")
        fields[ours] = _sources(name, value) if ours in _PICTURES else value
    return fields


def _sources(field: str, value: JsonValue) -> JsonValue:
    """Pictures as requests here name them: files that were uploaded, and `data:` URLs."""
    if isinstance(value, list):
        return [_sources(f"{field}[{index}]", one) for index, one in enumerate(value)]
    if not isinstance(value, str):
        return value
    if match := _FILE.fullmatch(value):
        return f"upload:{match[1]}"
    if value[:7].lower() == "http://" or value[:8].lower() == "https://":
        # Fetching it would let clients reach whatever this machine reaches.
        raise InvalidField(f"input.{field}", "must be a data: URL, or a file that was uploaded here")
    return value
