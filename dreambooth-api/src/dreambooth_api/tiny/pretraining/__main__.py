"""Trains ``enlight/tiny-sd``, its CLIP and its judge from nothing but this package.

    python -m dreambooth_api.tiny.pretraining --work /tmp/tiny --stage all

Stages write into the work folder and can be run one by one; ``export`` copies what is shipped beside
this package, as fp16 safetensors. On two cores it takes about two hours, on a GPU minutes.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
from pathlib import Path

import torch

from ..captions import describe
from ..render import draw_scene
from ..tokenizer import build_tokenizer, learn_merges

STAGES = ("tokenizer", "text", "vae", "unet", "clip", "judge", "export")
POOL = 24_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for pictures and checkpoints, about 2 GB"
    )
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="of the one stage named by --stage, instead of its default")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    args.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if args.stage == "all" else (args.stage,):
        run_stage(stage, args.work, torch.device(args.device), args.steps)


def run_stage(stage: str, work: Path, device: torch.device, steps: int | None) -> None:
    from transformers import CLIPTokenizer

    from . import autoencoder, denoiser, export, judging, pool, similarity, text

    if stage == "tokenizer":
        rng = random.Random(0)
        captions = [describe(draw_scene(rng), rng) for _ in range(20_000)]
        build_tokenizer(learn_merges(captions), work / "tokenizer")
        return
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    if stage == "text":
        text.train(tokenizer, work / "text", steps or 600, device)
        return
    scenes = pool.make_scenes(POOL)
    array = pool.pictures(scenes, work / "pictures.u8", os.cpu_count() or 1)
    if stage == "vae":
        varied = pool.vary_colours(scenes[: POOL // 4])
        colours = pool.pictures(varied, work / "colours.u8", os.cpu_count() or 1)
        autoencoder.train((array, colours), work / "vae", steps or 3600, device)
    elif stage == "unet":
        examples = denoiser.prepare(work, array, scenes, device)
        denoiser.train(examples, work / "unet", steps or 5000, device)
    elif stage == "clip":
        similarity.train(work, array, scenes, steps or 300, device)
    elif stage == "judge":
        judging.train(array, scenes, work / "judge.safetensors", steps or 700, device)
    elif stage == "export":
        export.export_all(work)


if __name__ == "__main__":
    main()
