"""How well an upscaler restores pictures that no stage of the training has seen, next to bicubic enlargement.

    python -m dreambooth_api.tiny.pretraining.upscaler.evaluate --model upsampler/src/upsampler/tiny-x4

PSNR is in dB, the mean over the pictures. The edge error is the mean difference of the gradients' lengths,
by Sobel, in steps of 255: blurred edges and invented ones both raise it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionUpscalePipeline
from numpy.typing import NDArray
from PIL import Image

from ...architecture import SIZE
from ...captions import describe
from ...render import draw_scene, render
from .pictures import reduce

COUNT = 60
BATCH = 4
STEPS = 4


def held_out(count: int, seed: int = 2027) -> list[tuple[Image.Image, str]]:
    """Pictures of reserved scenes with their captions."""
    rng = random.Random(seed)
    scenes = [draw_scene(rng, reserved=True) for _ in range(count)]
    return [(render(scene, SIZE), describe(scene, rng)) for scene in scenes]


def bicubic(small: Image.Image) -> Image.Image:
    return small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def enlarge(
    pipeline: StableDiffusionUpscalePipeline,
    small: Sequence[Image.Image],
    prompts: Sequence[str],
    *,
    steps: int = STEPS,
    guidance: float = 1.0,
    noise_level: int = 0,
) -> list[Image.Image]:
    """Picture i is drawn from seed i."""
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for start in range(0, len(small), BATCH):
        some = list(small[start : start + BATCH])
        pictures += pipeline(
            prompt=list(prompts[start : start + BATCH]),
            image=some,
            num_inference_steps=steps,
            guidance_scale=guidance,
            noise_level=noise_level,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(some))],
        ).images
    return pictures


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = float(np.square(_values(one) - _values(other)).mean())
    return 10 * math.log10(255**2 / max(error, 1e-6))


def edge_error(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(_gradients(one) - _gradients(other)).mean())


def _values(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, np.float64)


def _gradients(image: Image.Image) -> NDArray[np.float64]:
    """Length of the Sobel gradient of the luminance, one less pixel at each border."""
    grey = np.asarray(image.convert("L"), np.float64)
    smooth_x = (grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]) / 4
    smooth_y = (grey[:-2] + 2 * grey[1:-1] + grey[2:]) / 4
    across = (smooth_y[:, 2:] - smooth_y[:, :-2]) / 2
    down = (smooth_x[2:] - smooth_x[:-2]) / 2
    return np.hypot(across, down)


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures side by side, row by row, at twice their size."""
    side, gap = 2 * SIZE, 6
    page = Image.new(
        "RGB", (len(rows[0]) * (side + gap) - gap, len(rows) * (side + gap) - gap), (255, 255, 255)
    )
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            large = picture.resize((side, side), Image.Resampling.NEAREST)
            page.paste(large, (x * (side + gap), y * (side + gap)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a folder that diffusers reads")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--noise-level", type=int, default=0)
    parser.add_argument("--captions", action="store_true", help="tell the upscaler what the picture shows")
    parser.add_argument("--sheet", type=Path, help="where to write low-res, bicubic, upscaled and original")
    args = parser.parse_args()
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(args.model)
    pictures, captions = zip(*held_out(args.count), strict=True)
    small = [reduce(picture) for picture in pictures]
    drawn = enlarge(
        pipeline,
        small,
        captions if args.captions else [""] * len(small),
        steps=args.steps,
        guidance=args.guidance,
        noise_level=args.noise_level,
    )
    plain = [bicubic(picture) for picture in small]
    figures = {
        name: {
            "psnr": round(float(np.mean([psnr(*pair) for pair in zip(made, pictures, strict=True)])), 2),
            "edge_error": round(
                float(np.mean([edge_error(*pair) for pair in zip(made, pictures, strict=True)])), 3
            ),
        }
        for name, made in (("bicubic", plain), ("upscaled", drawn))
    }
    better = sum(psnr(d, p) > psnr(b, p) for d, b, p in zip(drawn, plain, pictures, strict=True))
    print(json.dumps({"pictures": len(pictures), "better_psnr": better, **figures}))
    if args.sheet:
        sheet(list(zip(small, plain, drawn, pictures, strict=True))[:6]).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
