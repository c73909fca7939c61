"""Learning the bundled subject with the command line, and how much like its photos it is drawn then."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from diffusers import StableDiffusionPipeline
from dreambooth_api.tiny import PHOTOS_FOLDER, PIPELINE_FOLDER
from dreambooth_api.tiny.evaluate import draw
from dreambooth_api.tiny.learning import Likeness, PhotoLikeness, prompts
from dreambooth_api.tiny.subject import INSTANCE_PROMPT
from dreambooth_api.train import main as train

#: Of a picture: half of the default, and the judge and the palette say the same.
DRAWING_STEPS = 10
#: Share of the pixels in the subject's two colours; the base model's pictures have less than half of it.
LEARNED_PALETTE = 0.02


@dataclass(frozen=True)
class Outcome:
    base: Likeness
    trained: Likeness


def learn(folder: Path, *options: str) -> StableDiffusionPipeline:
    """Trains with the command line's defaults and these options; gives the pipeline with the result on it."""
    images, work, output = str(PHOTOS_FOLDER), str(folder / "work"), folder / "artifact"
    common = ["--images", images, "--prompt", INSTANCE_PROMPT, "--name", "shoe"]
    assert train([*common, "--work", work, "--output", str(output), *options]) == 0
    if "full" in options:
        return StableDiffusionPipeline.from_pretrained(output)
    pipeline = StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER)
    pipeline.load_lora_weights(output)
    return pipeline


def base_pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER)


def compared_with_base(trained: StableDiffusionPipeline) -> Outcome:
    return Outcome(_base_likeness(), likeness(trained))


@functools.cache
def _base_likeness() -> Likeness:
    return likeness(base_pipeline())


def likeness(pipeline: StableDiffusionPipeline, *subject: str) -> Likeness:
    asked = prompts(*subject)
    pictures = draw(pipeline, [prompt.text for prompt in asked], steps=DRAWING_STEPS)
    return PhotoLikeness().measure(asked, pictures)


def assert_learned(outcome: Outcome) -> None:
    assert outcome.trained.image_similarity > outcome.base.image_similarity + 0.1
    assert outcome.base.palette < 0.01
    assert outcome.trained.palette > LEARNED_PALETTE
    assert outcome.trained.background >= 0.8
    assert outcome.trained.object >= 0.8
