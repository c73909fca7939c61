"""What the trainer adds to a step: `dreambooth_api.train` against a bare loop over the same modules.

    .venv/bin/python benchmarks/training.py [--steps 100] [--rounds 3]

The bare loop is a UNet's forward and backward pass on one latent with cached text states and AdamW, and
nothing else: no checkpoint, no progress, no schedule. Both train LoRA of the same rank in the same process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from dreambooth_api.models.bases import resolve_base
from dreambooth_api.tiny import PIPELINE_FOLDER
from dreambooth_api.tiny.subject import INSTANCE_PROMPT, photos
from dreambooth_api.training.loop import train
from dreambooth_api.training.messages import Message, Progress
from dreambooth_api.training.options import TrainingOptions
from dreambooth_api.training.workspace import Workspace, prepare_job
from peft import LoraConfig

RANK = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ratios = []
    print(f"{'bare step ms':>14}{'trainer step ms':>18}{'ratio':>8}")
    for _ in range(args.rounds):
        plain, ours = bare_step(device, args.steps), trainer_step(device, args.steps)
        ratios.append(ours / plain)
        print(f"{plain * 1e3:14.1f}{ours * 1e3:18.1f}{ratios[-1]:8.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")


def bare_step(device: str, steps: int) -> float:
    """Seconds of a step of the bare loop."""
    pipeline = StableDiffusionPipeline.from_pretrained(PIPELINE_FOLDER, dtype=torch.float32).to(device)
    unet = pipeline.unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    learned = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3)
    noiser = DDPMScheduler.from_config(pipeline.scheduler.config)
    pixels = pipeline.image_processor.preprocess(photos()[0]).to(device)
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        states = pipeline.encode_prompt(INSTANCE_PROMPT, device, 1, False)[0]
    for step in range(steps + 1):
        if step == 1:  # the first one warms up
            started = time.perf_counter()
        noise = torch.randn_like(latents)
        at = torch.randint(0, 1000, (1,), device=device)
        predicted = unet(noiser.add_noise(latents, noise, at), at, states, return_dict=False)[0]
        loss = F.mse_loss(predicted, noise)
        loss.backward()
        loss.item()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - started) / steps


def trainer_step(device: str, steps: int) -> float:
    """Seconds of a step of the real trainer, checkpoints included, set-up not."""
    arrived: list[float] = []

    def note(message: Message) -> None:
        if isinstance(message, Progress):
            arrived.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        base = resolve_base("enlight/tiny-sd")
        wanted = TrainingOptions(instance_prompt=INSTANCE_PROMPT, steps=steps + 1, rank=RANK).resolved(base)
        job, squares = prepare_job(
            "default", "benchmark", wanted, photos(),
            base_revision=base.revision, device=device, class_images=Path(folder) / "class-images",
        )  # fmt: skip
        workspace = Workspace.claim(Path(folder), job.identity)
        workspace.write_job(job, squares)
        train(workspace, note, lambda: False)
        workspace.release()
    return (arrived[-1] - arrived[0]) / steps


if __name__ == "__main__":
    main()
