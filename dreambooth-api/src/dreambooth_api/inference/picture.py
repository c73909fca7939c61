"""A drawn picture, and what its file says about how it was made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import PIL.Image

from dreambooth_api.inference.request import Drawing


@dataclass(frozen=True)
class ModelUse:
    """A stored model as it took part in a drawing; ``model_id`` is as stored, without a version."""

    model_id: str
    version: str
    method: str
    weight: float

    @property
    def pinned(self) -> str:
        """The id that names this very version."""
        return f"{self.model_id}@{self.version}"


@dataclass(frozen=True)
class Picture:
    """One RGB picture and the seed that alone draws it again."""

    image: PIL.Image.Image
    seed: int


@dataclass(frozen=True)
class Recipe:
    """How a request's pictures are made."""

    drawing: Drawing
    models: tuple[ModelUse, ...]
    base: str
    scheduler: str
    lora_scale: float

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were used, by the names of the request's fields."""
        drawing = self.drawing
        settings: dict[str, Any] = {
            "num_inference_steps": drawing.steps,
            "guidance_scale": drawing.guidance_scale,
            "scheduler": self.scheduler,
            "width": drawing.width,
            "height": drawing.height,
            "lora_scale": self.lora_scale,
            "mode": drawing.mode,
            "models": [{"model_id": use.pinned, "weight": use.weight} for use in self.models],
        }
        if drawing.mode != "text":
            settings["strength"] = drawing.strength
        return settings

    def description(self, seed: int) -> dict[str, str]:
        """Text chunks of the file of the picture of that seed: everything needed to draw it again, as
        strings.
        """
        return {
            "prompt": self.drawing.prompt,
            "negative_prompt": self.drawing.negative_prompt,
            "seed": str(seed),
            "model": ", ".join(use.model_id for use in self.models),
            "version": ", ".join(use.version for use in self.models),
            "base": self.base,
            "settings": json.dumps(self.settings),
        }


@dataclass(frozen=True)
class Drawn:
    """What a request came to: its pictures in order, and what of the prompt did not fit the text encoder."""

    recipe: Recipe
    pictures: tuple[Picture, ...]
    truncated_prompt: str | None
    #: For how long the device drew it; of what it did for several at once, its part.
    device_seconds: float
