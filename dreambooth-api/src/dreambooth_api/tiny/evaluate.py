"""How well a pipeline draws what a caption says.

    python -m dreambooth_api.tiny.evaluate --sheet sheet.png

Draws captions whose combination of object, colour and background was kept out of training, and has
the judge read all three off each picture.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from . import PIPELINE_FOLDER
from .captions import describe
from .judge import Verdict, load_judge, read
from .render import Scene, draw_scene

COUNT = 200
STEPS = 20
GUIDANCE = 4.0
BATCH = 10


@dataclass(frozen=True)
class Score:
    """Shares of the pictures, 0 to 1, in which the judge read what the caption says."""

    pictures: int
    kind: float
    colour: float
    background: float
    all_three: float


@dataclass(frozen=True)
class Question:
    caption: str
    scene: Scene

    def answered(self, verdict: Verdict) -> tuple[bool, bool, bool]:
        scene = self.scene
        return (
            verdict.kind == scene.kind,
            verdict.colour == scene.colour,
            verdict.background == scene.background,
        )


def held_out_questions(count: int = COUNT, seed: int = 2026) -> list[Question]:
    rng = random.Random(seed)
    scenes = [draw_scene(rng, reserved=True) for _ in range(count)]
    return [Question(describe(scene, rng), scene) for scene in scenes]


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Image.Image]:
    """One picture a prompt; picture i uses seed + i, as the service does."""
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        some = list(prompts[start : start + BATCH])
        generators = [torch.Generator("cpu").manual_seed(seed + start + i) for i in range(len(some))]
        answer = pipeline(some, num_inference_steps=steps, guidance_scale=guidance, generator=generators)
        pictures += answer.images
    return pictures


def score(questions: Sequence[Question], pictures: list[Image.Image]) -> tuple[Score, list[Verdict]]:
    verdicts = read(load_judge(), pictures)
    answers = [question.answered(verdict) for question, verdict in zip(questions, verdicts, strict=True)]
    kind, colour, background = (sum(column) / len(answers) for column in zip(*answers, strict=True))
    all_three = sum(all(answer) for answer in answers) / len(answers)
    return Score(len(answers), kind, colour, background, all_three), verdicts


def contact_sheet(
    questions: Sequence[Question],
    verdicts: Sequence[Verdict],
    pictures: Sequence[Image.Image],
    columns: int = 8,
) -> Image.Image:
    """Pictures under their captions; a wrong reading stands in red below."""
    width, height = 176, 172
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    paint = ImageDraw.Draw(sheet)
    for i, (question, verdict, picture) in enumerate(zip(questions, verdicts, pictures, strict=True)):
        x, y = i % columns * width, i // columns * height
        sheet.paste(picture, (x + (width - picture.width) // 2, y + 2))
        words = question.caption.split(" ")
        half = (len(words) + 1) // 2
        paint.text((x + 3, y + 132), "\n".join((" ".join(words[:half]), " ".join(words[half:]))), "black")
        if not all(question.answered(verdict)):
            paint.text(
                (x + 3, y + 158), f"read: {verdict.colour} {verdict.kind}, {verdict.background}", "red"
            )
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=PIPELINE_FOLDER, help="a diffusers folder")
    parser.add_argument("--lora", type=Path, help="an adapter's folder, loaded on top")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet of the first 64 pictures")
    args = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(args.model)
    if args.lora:
        pipeline.load_lora_weights(args.lora)
    questions = held_out_questions(args.count)
    prompts = [question.caption for question in questions]
    pictures = draw(pipeline, prompts, steps=args.steps, guidance=args.guidance)
    result, verdicts = score(questions, pictures)
    print(json.dumps(result.__dict__))
    if args.sheet:
        contact_sheet(questions[:64], verdicts[:64], pictures[:64]).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
