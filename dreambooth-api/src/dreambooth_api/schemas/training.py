"""The body of ``POST /train`` and what is told of a run.

Every knob of ``TrainingOptions`` is taken under its name in capitals, or the name that clients have always
used for it; bounds, defaults and descriptions are those of the options.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

from enlight_common.errors import InvalidField, UnsupportedBaseModel
from enlight_common.ids import ID_PATTERN
from enlight_common.images import ImageBounds, decode_base64_image
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from dreambooth_api.models.bases import BaseModel as Base
from dreambooth_api.models.bases import resolve_base
from dreambooth_api.training.options import MAX_PHOTOS, PriorPreservation, TrainingOptions

#: Names that existing clients use.
KEPT_NAMES = {
    "base_model": "MODEL_NAME",
    "steps": "MAX_TRAINING_STEPS",
    "batch_size": "TRAIN_BATCH_SIZE",
    "learning_rate": "LR",
    "captions": "CAPTION_LIST",
}
PRIOR_NAMES = {
    "class_prompt": "CLASS_PROMPT",
    "num_class_images": "NUM_CLASS_IMAGES",
    "weight": "PRIOR_LOSS_WEIGHT",
}
#: Pixels of all photos together: they are held decoded, 3 bytes each, until they are scaled down.
MAX_TOTAL_PIXELS = 300_000_000
PHOTO_BOUNDS = ImageBounds()

_IGNORED = "Accepted because existing clients send it, and ignored: a training opens no port"
Port = Annotated[int, Field(ge=0, le=65535)]


class TrainRequest(BaseModel):
    """What ``TrainBody`` does; its further fields are made from the options."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    OUTPUT_DIR: str = Field(
        pattern=rf"^{ID_PATTERN}$", description="The model's name: from then on its `model_id`"
    )
    IMAGE_LIST: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1, max_length=MAX_PHOTOS, description="Photos of the subject in base64"
    )
    MAIN_PROCESS_PORT: Port | None = Field(None, description=_IGNORED)
    MAIN_PROCESS_POR: Port | None = Field(None, description=_IGNORED)

    def options(self, default_base: Base) -> TrainingOptions:
        """The training's options, every default filled in. *default_base* is for requests that name none.

        Raises:
            UnsupportedBaseModel: there is no such base model here.
            InvalidField: options that do not go together.
        """
        given = {
            name: value
            for name in TrainingOptions.model_fields
            if (value := getattr(self, option_key(name), None)) is not None
        }
        base = _base_named(given.get("base_model"), default_base)
        given["base_model"] = base.name
        # Clients that name LR without METHOD are older than LoRA here, and mean a full fine-tune's rate.
        given.setdefault("method", "full" if "learning_rate" in given else "lora")
        captions = given.get("captions")
        if captions is not None and len(captions) != len(self.IMAGE_LIST):
            raise InvalidField("CAPTION_LIST", "must have one caption for each photo of IMAGE_LIST")
        prior = self._prior_preservation()
        if prior is not None:
            given["prior_preservation"] = prior
        return TrainingOptions(**given).resolved(base)

    def _prior_preservation(self) -> PriorPreservation | None:
        given = {
            name: value
            for name, key in PRIOR_NAMES.items()
            if key in self.model_fields_set and (value := getattr(self, key)) is not None
        }
        if not given:
            return None
        if "class_prompt" not in given:
            raise InvalidField("CLASS_PROMPT", "is required with NUM_CLASS_IMAGES or PRIOR_LOSS_WEIGHT")
        return PriorPreservation(**given)

    def photos(self) -> list[Image.Image]:
        """The photos, decoded.

        Raises:
            InvalidField: one is no image or out of bounds, or all together are too large.
        """
        photos: list[Image.Image] = []
        pixels = 0
        for number, text in enumerate(self.IMAGE_LIST):
            photos.append(decode_base64_image(text, f"IMAGE_LIST[{number}]", PHOTO_BOUNDS))
            pixels += photos[-1].width * photos[-1].height
            if pixels > MAX_TOTAL_PIXELS:
                raise InvalidField("IMAGE_LIST", f"must have at most {MAX_TOTAL_PIXELS} pixels in all")
        return photos


def option_key(option: str) -> str:
    """The key of a field of ``TrainingOptions`` in the body."""
    return KEPT_NAMES.get(option, option.upper())


def _base_named(name: str | None, default: Base) -> Base:
    if name is None:
        return default
    try:
        return resolve_base(name)
    except UnsupportedBaseModel as error:
        raise UnsupportedBaseModel(f"MODEL_NAME: {error.detail}", field="MODEL_NAME") from None


def _body_fields() -> dict[str, Any]:
    """The body's fields by key, each an (annotation, field) as ``create_model`` takes them."""
    fields = {
        option_key(name): _optional(field)
        for name, field in TrainingOptions.model_fields.items()
        if name not in ("instance_prompt", "prior_preservation")
    }
    prompt = TrainingOptions.model_fields["instance_prompt"]
    fields["INSTANCE_PROMPT"] = (prompt.annotation, copy.copy(prompt))
    fields |= {PRIOR_NAMES[name]: _optional(field) for name, field in PriorPreservation.model_fields.items()}
    return fields


def _optional(field: FieldInfo) -> tuple[Any, FieldInfo]:
    """The same field with None as its default: only what a client named is handed to the options.

    Bounds sit beside None, not around it, so that JSON Schema shows them.
    """
    annotation: Any = field.annotation
    for bound in field.metadata:
        annotation = Annotated[annotation, bound]
    default = "" if field.is_required() or field.default is None else f" (default: {field.default})"
    optional: FieldInfo = Field(None, description=f"{field.description}{default}")  # type: ignore[assignment]
    return annotation | None, optional


TrainBody: type[TrainRequest] = create_model("TrainBody", __base__=TrainRequest, **_body_fields())
TrainBody.__doc__ = "Photos of a subject and how to learn it. Unknown keys are refused."


#: A lease is renewed thrice in its time; with fewer seconds a slow answer would end a run.
SHORTEST_LEASE_S, LONGEST_LEASE_S = 5, 3600
LeaseSeconds = Annotated[float, Field(ge=SHORTEST_LEASE_S, le=LONGEST_LEASE_S, allow_inf_nan=False)]


class LeaseBody(BaseModel):
    """For how long the caller answers for the training, from now on."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    seconds: LeaseSeconds


class SettlementBody(BaseModel):
    """What became of a training's model: it is somebody's, or with `undo` nobody's."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    undo: bool = Field(False, strict=True, description="Delete the model")


class TrainAnswer(BaseModel):
    """The model is stored."""

    model_config = ConfigDict(protected_namespaces=())

    message: str
    model_id: str
    version: str
    method: Literal["lora", "full"]
    learning_rate: float
    steps: int
    base: str
    run_id: str
