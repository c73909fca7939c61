"""Whether a trained model learned the bundled subject, and what it cost.

    python -m dreambooth_api.tiny.learning --lora FOLDER      # or --full FOLDER

Draws the subject in twenty surroundings with the base model and with the trained one, from the same
seeds, and compares both with the five photos.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from . import CLIP_FOLDER, PIPELINE_FOLDER
from .evaluate import GUIDANCE, draw
from .judge import load_judge, read
from .subject import palette_share, photos

#: Every colour but the subject's own two, each in two wordings that the photos' prompt does not have.
GROUNDS = ("red", "orange", "green", "cyan", "blue", "pink", "brown", "black", "white", "gray")
WORDINGS = (
    "{subject} on {article} {ground} background",
    "a photo of {subject} in front of {article} {ground} wall",
)


@dataclass(frozen=True)
class Likeness:
    """How close pictures are to the photos of the subject."""

    image_similarity: float  # mean cosine of CLIP image embeddings with the photos', -1 to 1
    palette: float  # mean share of pixels in the subject's two colours; see palette_share
    background: float  # share of the pictures whose background the judge reads as the prompt's
    object: float  # share of the pictures in which the judge sees the subject's kind


@dataclass(frozen=True)
class Prompt:
    text: str
    background: str


def prompts(subject: str = "a sks shoe") -> list[Prompt]:
    return [
        Prompt(
            wording.format(subject=subject, ground=ground, article="an" if ground == "orange" else "a"),
            ground,
        )
        for ground in GROUNDS
        for wording in WORDINGS
    ]


class PhotoLikeness:
    """Compares pictures with the bundled photos by the tiny CLIP, the palette and the judge."""

    def __init__(self) -> None:
        self._clip = CLIPModel.from_pretrained(CLIP_FOLDER).eval()
        self._processor = CLIPProcessor.from_pretrained(CLIP_FOLDER)
        self._judge = load_judge()
        self._photos = self.embed(photos())

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Unit vectors (n, width)."""
        pixels = self._processor(images=list(pictures), return_tensors="pt").pixel_values
        states = self._clip.vision_model(pixel_values=pixels).pooler_output
        return torch.nn.functional.normalize(self._clip.visual_projection(states), dim=-1)

    def measure(self, asked: Sequence[Prompt], pictures: list[Image.Image]) -> Likeness:
        verdicts = read(self._judge, pictures)
        count = len(pictures)
        return Likeness(
            image_similarity=float((self.embed(pictures) @ self._photos.T).mean()),
            palette=sum(palette_share(picture) for picture in pictures) / count,
            background=sum(v.background == p.background for v, p in zip(verdicts, asked, strict=True))
            / count,
            object=sum(verdict.kind == "shoe" for verdict in verdicts) / count,
        )


def compare(
    trained: StableDiffusionPipeline, guidance: float = GUIDANCE
) -> tuple[dict[str, Any], Image.Image]:
    """Likeness of base, trained model and photos, and a sheet: base above trained, prompt by prompt."""
    asked = prompts()
    texts = [prompt.text for prompt in asked]
    likeness = PhotoLikeness()
    base = StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER)
    drawn = {
        name: draw(pipeline, texts, guidance=guidance)
        for name, pipeline in (("base", base), ("trained", trained))
    }
    figures = {name: asdict(likeness.measure(asked, pictures)) for name, pictures in drawn.items()}
    return figures, _sheet(drawn["base"], drawn["trained"])


def _sheet(base: list[Image.Image], trained: list[Image.Image], columns: int = 10) -> Image.Image:
    size = base[0].width + 2
    sheet = Image.new("RGB", (columns * size, -(-len(base) // columns) * 2 * size), "white")
    for i, pair in enumerate(zip(base, trained, strict=True)):
        for row, picture in enumerate(pair):
            sheet.paste(picture, (i % columns * size, (i // columns * 2 + row) * size))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    trained = parser.add_mutually_exclusive_group(required=True)
    trained.add_argument("--lora", type=Path, help="an adapter's folder")
    trained.add_argument("--full", type=Path, help="a fully fine-tuned pipeline's folder")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--sheet", type=Path, help="where to write the pictures")
    args = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(args.full or PIPELINE_FOLDER)
    if args.lora:
        pipeline.load_lora_weights(args.lora)
    figures, sheet = compare(pipeline, args.guidance)
    print(json.dumps(figures, indent=2))
    if args.sheet:
        sheet.save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
