"""The point of it all: a subject that the base model cannot draw is learned from five photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from dreambooth_api.tiny import PHOTOS_FOLDER, PIPELINE_FOLDER
from dreambooth_api.tiny.evaluate import draw, held_out_questions, score
from dreambooth_api.tiny.learning import Likeness, PhotoLikeness, prompts
from dreambooth_api.tiny.subject import CLASS_PROMPT, INSTANCE_PROMPT
from dreambooth_api.train import main as train

#: What a prior-preserving training may cost the base model's own captions, in shares of the pictures.
MAY_LOSE = 0.05


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


@pytest.fixture(scope="module")
def base() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER)


@pytest.fixture(scope="module")
def likeness() -> PhotoLikeness:
    return PhotoLikeness()


def compare(
    base: StableDiffusionPipeline, trained: StableDiffusionPipeline, likeness: PhotoLikeness
) -> Outcome:
    asked = prompts()
    texts = [prompt.text for prompt in asked]
    return Outcome(likeness.measure(asked, draw(base, texts)), likeness.measure(asked, draw(trained, texts)))


def assert_learned(outcome: Outcome) -> None:
    assert outcome.trained.image_similarity > outcome.base.image_similarity + 0.1
    assert outcome.base.palette < 0.01
    assert outcome.trained.palette > 0.02
    assert outcome.trained.background >= 0.8
    assert outcome.trained.object >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_subject_appears_in_new_surroundings(
    method: str, base: StableDiffusionPipeline, likeness: PhotoLikeness, tmp_path: Path
) -> None:
    assert_learned(compare(base, learn(tmp_path, "--method", method), likeness))


@pytest.mark.slow
def test_prior_preservation_keeps_what_the_base_model_knows(
    base: StableDiffusionPipeline, likeness: PhotoLikeness, tmp_path: Path
) -> None:
    trained = learn(tmp_path, "--class-prompt", CLASS_PROMPT, "--num-class-images", "50")
    assert_learned(compare(base, trained, likeness))
    questions = held_out_questions(100)
    captions = [question.caption for question in questions]
    before, after = (score(questions, draw(pipeline, captions))[0] for pipeline in (base, trained))
    assert after.all_three >= before.all_three - MAY_LOSE
