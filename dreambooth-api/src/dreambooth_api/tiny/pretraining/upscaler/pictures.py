"""The training pictures: what tiny-sd learns from, closer up and in more colours too, and each in small."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from ...architecture import SIZE
from ...render import Scene, render
from .. import pool
from .architecture import FACTOR

Resampling = Image.Resampling
#: How pictures get small out there; bicubic is the usual one of comparisons.
_REDUCTIONS = (Resampling.BICUBIC, Resampling.BICUBIC, Resampling.BOX, Resampling.LANCZOS)


class Pictures(NamedTuple):
    large: NDArray[np.uint8]  # (n, SIZE, SIZE, 3)
    small: NDArray[np.uint8]  # (n, SIZE / FACTOR, SIZE / FACTOR, 3)
    scenes: list[Scene]

    def first(self, count: int) -> Pictures:
        """The first *count* of them."""
        return Pictures(self.large[:count], self.small[:count], self.scenes[:count])


def load(folder: Path, count: int) -> Pictures:
    """``count`` pictures, drawn now unless ``folder`` holds them already."""
    scenes = pool.make_scenes(count, seed=4)
    scenes = [
        varied if index % 4 == 3 else scene
        for index, (scene, varied) in enumerate(zip(scenes, pool.vary_colours(scenes), strict=True))
    ]
    path = folder / "pictures.safetensors"
    if not path.exists():
        pairs = [_pair(scene, index) for index, scene in enumerate(scenes)]
        large, small = (
            np.stack([np.asarray(picture) for picture in part]) for part in zip(*pairs, strict=True)
        )
        save_file({"large": large, "small": small}, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    kept = load_file(path)
    return Pictures(kept["large"], kept["small"], scenes)


def reduce(picture: Image.Image, resampling: Resampling = Resampling.BICUBIC) -> Image.Image:
    """A picture at a quarter of its width and height."""
    return picture.resize((picture.width // FACTOR, picture.height // FACTOR), resampling)


def _pair(scene: Scene, index: int) -> tuple[Image.Image, Image.Image]:
    rng = random.Random(index)
    zoom = rng.choice((1, 1, 2))
    whole = render(scene, SIZE * zoom)
    left, top = (rng.randrange(SIZE * (zoom - 1) + 1) for _ in range(2))
    picture = whole.crop((left, top, left + SIZE, top + SIZE))
    if index % 8 == 5:
        picture = Image.blend(picture, _clouds(rng), rng.uniform(0.3, 0.8))
    return picture, reduce(picture, rng.choice(_REDUCTIONS))


def _clouds(rng: random.Random) -> Image.Image:
    """Soft random colours: what gradients, shadows and rough surfaces look like close up."""
    clouds = Image.new("RGB", (SIZE, SIZE), "gray")
    for cells in (4, 9, 24, 60):
        octave = Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells * cells))
        clouds = Image.blend(clouds, octave.resize(clouds.size, Resampling.BICUBIC), 0.4)
    return clouds
