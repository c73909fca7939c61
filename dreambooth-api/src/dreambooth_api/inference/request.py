"""What to draw: as a client asks for it (``DrawRequest``), and with every setting decided (``Drawing``)."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Literal

import PIL.Image
from enlight_common.errors import InvalidField

from dreambooth_api.inference.schedulers import sampler_named
from dreambooth_api.models.bases import BaseModel

MAX_SEED = 2**63 - 1
MIN_SIDE = 64
#: The VAE turns 8×8 pixels into one latent.
SIDE_STEP = 8
#: Largest picture, in areas of what the base model was trained for: attention's cost grows with its square.
MAX_AREAS = 4
# A drawn seed fits a JavaScript number and the 32 bits that other tools take.
_DRAWN_SEEDS = 2**32

Mode = Literal["text", "image", "inpaint"]


@dataclass(frozen=True)
class WeightedModel:
    """A stored model and how strongly it is applied; 1 is as trained."""

    model_id: str
    weight: float = 1.0


@dataclass(frozen=True)
class DrawRequest:
    """A client's wish; None stands for what the base model suggests. Bounds were checked at the edge."""

    prompt: str
    negative_prompt: str = ""
    models: tuple[WeightedModel, ...] = ()
    num_image: int = 10
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str | None = None
    width: int | None = None
    height: int | None = None
    lora_scale: float = 1.0
    image: PIL.Image.Image | None = None
    mask: PIL.Image.Image | None = None
    strength: float | None = None
    tenant: str = "default"


@dataclass(frozen=True)
class Drawing:
    """A request with all settings decided: the same ``Drawing`` gives the same pictures."""

    prompt: str
    negative_prompt: str
    num_image: int
    steps: int
    guidance_scale: float
    seed: int
    scheduler: str | None
    width: int
    height: int
    mode: Mode
    strength: float
    image: PIL.Image.Image | None
    mask: PIL.Image.Image | None

    @property
    def steps_taken(self) -> int:
        """How many of its steps each picture takes: one from an image begins in the midst of them."""
        return self.steps if self.mode == "text" else min(int(self.steps * self.strength), self.steps)


@dataclass(frozen=True)
class Suggestion:
    """Settings a base model draws well with when the client names none."""

    steps: int
    guidance_scale: float
    strength: float = 0.8


def suggestion_for(base: BaseModel) -> Suggestion:
    """diffusers' own defaults for the full-size families; fewer steps and milder guidance for small ones."""
    if base.resolution < 512:
        return Suggestion(steps=25, guidance_scale=4.0)
    if base.family == "sdxl":
        return Suggestion(steps=50, guidance_scale=5.0)
    return Suggestion(steps=50, guidance_scale=7.5)


def settle(request: DrawRequest, base: BaseModel) -> Drawing:
    """Decide what the request left open, for pictures of *base*.

    Raises:
        InvalidField: the size, or steps with this scheduler or strength, is out of *base*'s bounds.
    """
    suggestion = suggestion_for(base)
    width, height = _size(request, base)
    steps = suggestion.steps if request.steps is None else request.steps
    if request.scheduler is not None:
        most = sampler_named(request.scheduler).max_steps
        if most is not None and steps > most:
            raise InvalidField("num_inference_steps", f"must be at most {most} with this scheduler")
    mode: Mode = "text" if request.image is None else "image" if request.mask is None else "inpaint"
    guidance = suggestion.guidance_scale if request.guidance_scale is None else request.guidance_scale
    strength = suggestion.strength if request.strength is None else request.strength
    drawing = Drawing(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        num_image=request.num_image,
        steps=steps,
        guidance_scale=guidance,
        seed=secrets.randbelow(_DRAWN_SEEDS) if request.seed is None else request.seed,
        scheduler=request.scheduler,
        width=width,
        height=height,
        mode=mode,
        strength=strength,
        image=request.image,
        mask=request.mask,
    )
    if drawing.steps_taken < 1:
        raise InvalidField("strength", "times num_inference_steps must be at least 1")
    return drawing


def _size(request: DrawRequest, base: BaseModel) -> tuple[int, int]:
    """Width and height in pixels: as asked, else the image's shape at the trained area, else the square."""
    side = base.resolution
    width, height = request.width, request.height
    if width is None and height is None and request.image is not None:
        width, height = _shaped_like(request.image, side * side)
    width, height = width or side, height or side
    most = MAX_AREAS * side * side
    if width * height > most:
        raise InvalidField("size", f"width times height must be at most {most} pixels here")
    return width, height


def _shaped_like(image: PIL.Image.Image, area: int) -> tuple[int, int]:
    scale = math.sqrt(area / (image.width * image.height))
    # A ribbon of a picture keeps the least side; its longer one is then what the area leaves.
    longest = area // MIN_SIDE
    sides = (min(max(side * scale, MIN_SIDE), longest) for side in (image.width, image.height))
    width, height = (int(side // SIDE_STEP) * SIDE_STEP for side in sides)
    return width, height
