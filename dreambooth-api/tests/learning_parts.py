"""Learning the bundled subject with the command line, and how much like its photos it is drawn then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffusers import StableDiffusionPipeline
from dreambooth_api.tiny import PHOTOS_FOLDER, PIPELINE_FOLDER
from dreambooth_api.tiny.evaluate import draw
from dreambooth_api.tiny.learning import Likeness, PhotoLikeness, prompts
from dreambooth_api.tiny.subject import INSTANCE_PROMPT
from dreambooth_api.train import main as train


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


def compare(base: StableDiffusionPipeline, trained: StableDiffusionPipeline) -> Outcome:
    likeness = PhotoLikeness()
    asked = prompts()
    texts = [prompt.text for prompt in asked]
    return Outcome(likeness.measure(asked, draw(base, texts)), likeness.measure(asked, draw(trained, texts)))


def assert_learned(outcome: Outcome) -> None:
    assert outcome.trained.image_similarity > outcome.base.image_similarity + 0.1
    assert outcome.base.palette < 0.01
    assert outcome.trained.palette > 0.02
    assert outcome.trained.background >= 0.8
    assert outcome.trained.object >= 0.8
