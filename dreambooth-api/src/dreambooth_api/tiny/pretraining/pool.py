"""The training pictures: scenes drawn once into a memory-mapped file, with their captions."""

from __future__ import annotations

import random
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..architecture import SIZE
from ..captions import loosely_describe
from ..render import Scene, draw_scene, render


def make_scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [draw_scene(rng) for _ in range(count)]


def vary_colours(scenes: list[Scene], seed: int = 1) -> list[Scene]:
    """The same scenes in any two colours: what only the autoencoder gets to see, so that it can show
    a subject whose colours the denoiser never met (as Stable Diffusion's can show any photo).
    """
    rng = random.Random(seed)

    def channels(low: int, high: int) -> tuple[int, int, int]:
        return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)

    return [replace(scene, jitter=channels(-90, 90), second=channels(0, 255)) for scene in scenes]


def caption(scene: Scene, index: int, wording: int = 0) -> str:
    """Caption number ``wording`` of a scene: always the same for the same arguments."""
    return loosely_describe(scene, random.Random(index * 1000 + wording))


def pictures(scenes: list[Scene], path: Path, workers: int) -> NDArray[np.uint8]:
    """The scenes as an array (count, SIZE, SIZE, 3), drawn now unless ``path`` holds them already."""
    shape = (len(scenes), SIZE, SIZE, 3)
    if not path.exists():
        part = path.with_suffix(".part")
        array = np.memmap(part, np.uint8, "w+", shape=shape)
        with get_context("spawn").Pool(workers) as pool:
            for index, pixels in enumerate(pool.imap(_pixels, scenes, chunksize=64)):
                array[index] = pixels
        array.flush()
        part.rename(path)
    return np.memmap(path, np.uint8, "r", shape=shape)


def batch(array: NDArray[np.uint8], indices: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """Pictures as a tensor (n, 3, height, width) in [-1, 1]."""
    pixels = torch.from_numpy(array[np.sort(indices)]).to(device)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@torch.no_grad()
def encode_captions(
    tokenizer: CLIPTokenizer,
    encoder: CLIPTextModel | CLIPTextModelWithProjection,
    captions: list[str],
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """The text encoder's ``states`` (n, 77, width) of the captions, and ``unsaid``, of none; fp16."""

    def states(texts: list[str]) -> torch.Tensor:
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        hidden: torch.Tensor = encoder(input_ids=tokens.to(device)).last_hidden_state
        return hidden.half().cpu()

    encoded = torch.cat([states(captions[i : i + 128]) for i in range(0, len(captions), 128)])
    return {"states": encoded, "unsaid": states([""])[0]}


def _pixels(scene: Scene) -> NDArray[np.uint8]:
    return np.asarray(render(scene, SIZE))
