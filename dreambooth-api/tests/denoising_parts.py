"""What the tests of denoising share: pictures stepped by hand, and the same ones by plain diffusers."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dreambooth_api.inference.denoising.adapter_sets import NO_ADAPTERS, AdapterSet, AdapterUse, adapter_set
from dreambooth_api.inference.denoising.adapters import SLOTS, BatchAdapters
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.denoiser import Denoiser
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.texts import Texts
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.lora import AdapterWeights, LayerNames, LoraLayers, read_adapter
from dreambooth_api.inference.request import Drawing, DrawRequest, settle
from dreambooth_api.inference.samplers import PictureNoise, trajectory_of
from dreambooth_api.inference.schedulers import make_scheduler
from dreambooth_api.models.artifact import ModelKey
from dreambooth_api.models.bases import TINY, resolve_base
from safetensors.torch import save_file
from service_parts import plain_pipeline
from torch import Tensor

#: Samplers that are stepped in batches.
BATCHED = ("ddim", "ddpm", "euler", "euler_karras", "euler_a", "dpm++_2m", "dpm++_2m_karras", "lcm")
#: "Equal" for latents in fp32; their own size is about 1.
EQUAL = 1e-3
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Wanted:
    """A picture to draw; sides are in pixels, *adapters* by their numbers, with weights."""

    seed: int = 0
    sampler: str | None = None
    steps: int = 4
    guidance: float = 4.0
    prompt: str = "a red shoe on the grass"
    width: int = 64
    height: int = 64
    adapters: tuple[tuple[int, float], ...] = ()

    @property
    def drawing(self) -> Drawing:
        request = DrawRequest(
            self.prompt,
            num_image=1,
            steps=self.steps,
            guidance_scale=self.guidance,
            seed=self.seed,
            scheduler=self.sampler,
            width=self.width,
            height=self.height,
        )
        return settle(request, resolve_base(TINY))


@functools.cache
def ours() -> Any:
    """The pipeline whose UNet is stepped in batches."""
    return plain_pipeline()


@functools.cache
def theirs(adapters: frozenset[int]) -> Any:
    """One for plain diffusers, with these adapters loaded."""
    pipeline = plain_pipeline()
    for number in sorted(adapters):
        pipeline.load_lora_weights(adapter_state(number), adapter_name=f"adapter{number}")
    return pipeline


@functools.cache
def names() -> LayerNames:
    return LayerNames.of_pipeline(plain_pipeline())


@functools.cache
def adapter_state(number: int) -> dict[str, Tensor]:
    """Adapter *number*: random matrices for the attention layers, in diffusers' names, ranks from 2 to 8."""
    generator = torch.Generator().manual_seed(number)
    rank = (4, 2, 8)[number % 3]
    state = {}
    for name, module in plain_unet().named_modules():
        if re.search(r"attn\d\.to_(q|k|v|out\.0)$", name):
            out, into = module.weight.shape
            state[f"unet.{name}.lora_A.weight"] = torch.randn(rank, into, generator=generator) * 0.3
            state[f"unet.{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.3
    return state


@functools.cache
def plain_unet() -> Any:
    return plain_pipeline().unet


@functools.cache
def _weights(number: int) -> AdapterWeights:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.safetensors"
        save_file(adapter_state(number), file)
        return read_adapter(file, names(), max_rank=16, dtype=torch.float32)


def adapters_of(wanted: Wanted) -> AdapterSet:
    return adapter_set(
        [
            AdapterUse(ModelKey("default", f"adapter{number}", "1"), _weights(number), weight)
            for number, weight in wanted.adapters
        ]
    )


SCHEDULER = dict(plain_pipeline().scheduler.config)


@functools.cache
def by_diffusers(wanted: Wanted) -> Tensor:
    """Its latents, (4, height, width), by plain diffusers, drawn alone."""
    pipeline = theirs(frozenset(number for number, _ in wanted.adapters))
    if wanted.adapters:
        chosen = [f"adapter{number}" for number, _ in wanted.adapters]
        pipeline.set_adapters(chosen, [weight for _, weight in wanted.adapters])
    pipeline.scheduler = make_scheduler(wanted.sampler, SCHEDULER)
    latents: Tensor = pipeline(
        wanted.prompt,
        negative_prompt="",
        num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance,
        width=wanted.width,
        height=wanted.height,
        generator=torch.Generator("cpu").manual_seed(wanted.seed),
        output_type="latent",
    ).images
    return latents[0]


def error(wanted: Wanted, picture: PictureUnderWay) -> float:
    """How far it is from plain diffusers', at most."""
    return float((picture.latents - by_diffusers(wanted)).abs().max())


@functools.cache
def _texts() -> Texts:
    return Texts(plain_pipeline())


@functools.cache
def _layers() -> LoraLayers:
    return LoraLayers(ours().unet, slots=SLOTS)


def under_way(wanted: Wanted, submission: Submission | None = None, index: int = 0) -> PictureUnderWay:
    """The picture before its first step."""
    trajectory = trajectory_of(wanted.sampler, SCHEDULER, wanted.steps)
    assert trajectory is not None
    noise = PictureNoise(wanted.seed, (4, wanted.height // 8, wanted.width // 8), torch.float32)
    return PictureUnderWay(
        submission=submission or Submission(1),
        index=index,
        trajectory=trajectory,
        guidance_scale=wanted.guidance,
        conditioning=_texts().conditioning(wanted.drawing, NO_ADAPTERS),
        adapters=adapters_of(wanted),
        noise=noise,
        latents=trajectory.start_scale * noise.draw()[0],
    )


def denoiser(max_batch: int = 8, unet: Any = None) -> Denoiser:
    """One over ``ours``, or over *unet*, which calls that in the end."""
    adapters, sizes = BatchAdapters(_layers()), BatchSizes(max_batch, 10**9)
    return Denoiser(ours().unet if unet is None else unet, adapters, sizes, _CPU, torch.float32)


def step_all(
    steps: Denoiser,
    arrivals: Mapping[int, Iterable[PictureUnderWay]],
    look: Callable[[int], object] = lambda number: None,
) -> list[PictureUnderWay]:
    """Step until nothing is left, admitting the pictures of *arrivals* before the step of that number; gives
    them in the order in which they were done.
    """
    done: list[PictureUnderWay] = []
    number = 0
    while steps.busy or number <= max(arrivals, default=0):
        for picture in arrivals.get(number, ()):
            steps.admit(picture)
        done += steps.step()
        look(number)
        number += 1
    return done
