"""Trains ``enlight/tiny-x4`` from nothing but this package and the text encoder of ``enlight/tiny-sd``.

    python -m dreambooth_api.tiny.pretraining.upscaler --work /tmp/x4 --out upsampler/src/upsampler/tiny-x4

Stages can be run one by one; ``export`` writes a folder that plain ``StableDiffusionUpscalePipeline``
reads. On one core it takes about half an hour.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

STAGES = ("vae", "unet", "export")
COUNT = 10_000
ENCODED = 3_000  # of them, for the denoiser: each has room for hundreds of crops


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures and weights, 1 GB")
    parser.add_argument("--out", type=Path, required=True, help="where the finished pipeline goes")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="of the one stage named by --stage, instead of its default")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    args.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if args.stage == "all" else (args.stage,):
        run_stage(stage, args.work, args.out, torch.device(args.device), args.steps)


def run_stage(stage: str, work: Path, out: Path, device: torch.device, steps: int | None) -> None:
    from . import autoencoder, denoiser, export, pictures

    if stage == "export":
        export.export_pipeline(work, out)
        return
    drawn = pictures.load(work, COUNT)
    if stage == "vae":
        autoencoder.train(drawn.large, work / "vae", 2000, steps or 450, device)
    elif stage == "unet":
        denoiser.train(
            denoiser.prepare(work, drawn.first(ENCODED), device), work / "unet", steps or 700, device
        )


if __name__ == "__main__":
    main()
