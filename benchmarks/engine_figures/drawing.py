"""The two sides: pictures by our engine, and by stock diffusers with the same model and settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from dreambooth_api.inference.engine import Engine
from dreambooth_api.inference.request import DrawRequest, WeightedModel

from engine_figures.models import TOGETHER, Workbench

PROMPT = "a striped red boat on a blue background"
GUIDANCE = 4.0
_ADAPTER = "swapped"


class Ours:
    """Pictures through the engine's public interface, one request each."""

    def __init__(self, engine: Engine, steps: int) -> None:
        self.engine, self._steps = engine, steps
        self._seeds = itertools.count()
        self._clients = ThreadPoolExecutor(TOGETHER)

    def request(self, adapter: str | None = None, **changes: Any) -> DrawRequest:
        settings: dict[str, Any] = {
            "prompt": PROMPT,
            "num_image": 1,
            "steps": self._steps,
            "guidance_scale": GUIDANCE,
            "seed": next(self._seeds),
            "models": () if adapter is None else (WeightedModel(adapter),),
        }
        return DrawRequest(**(settings | changes))

    def picture(self, adapter: str | None = None) -> None:
        self.engine.draw(self.request(adapter))

    def at_once(self, adapters: Sequence[str]) -> None:
        """A picture for each adapter, each asked for by a client of its own."""
        list(self._clients.map(self.picture, adapters))


class Stock:
    """Pictures by a plain pipeline, one after the other."""

    def __init__(self, bench: Workbench, steps: int) -> None:
        self.pipeline, self._steps = bench.plain_pipeline(), steps
        self._seeds = itertools.count()

    def picture(self) -> None:
        self.pipeline(
            PROMPT,
            num_inference_steps=self._steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator("cpu").manual_seed(next(self._seeds)),
        )

    def picture_with(self, folder: Path) -> None:
        """The adapter loaded for this picture; ``unload`` after it."""
        self.pipeline.load_lora_weights(str(folder))
        self.picture()

    def unload(self) -> None:
        self.pipeline.unload_lora_weights()

    def hotswapped(self, folder: Path) -> None:
        """The adapter put in the place of the one before, as diffusers' hotswap does."""
        swapping = _ADAPTER in self.pipeline.get_list_adapters().get("unet", [])
        self.pipeline.load_lora_weights(str(folder), adapter_name=_ADAPTER, hotswap=swapping)
        self.picture()


class Bare:
    """What no way of drawing can do without: a UNet's forward for each step and the VAE's decoding."""

    def __init__(self, bench: Workbench, steps: int) -> None:
        pipeline = bench.plain_pipeline()
        self._unet, self._vae, self._steps = pipeline.unet, pipeline.vae, steps
        self._device = torch.device(bench.engine.device)
        side = bench.base.resolution // 8
        options: dict[str, Any] = {"device": self._device, "dtype": bench.engine.dtype}
        config = self._unet.config
        self._latents = torch.randn((2, config.in_channels, side, side), **options)
        self._texts = torch.randn((2, 77, config.cross_attention_dim), **options)
        self._added = None
        if config.addition_embed_type == "text_time":
            sizes = 6 * config.addition_time_embed_dim
            pooled = config.projection_class_embeddings_input_dim - sizes
            self._added = {
                "text_embeds": torch.randn((2, pooled), **options),
                "time_ids": torch.full((2, 6), float(bench.base.resolution), **options),
            }

    @torch.inference_mode()
    def picture(self) -> None:
        timesteps = torch.linspace(999, 0, self._steps, device=self._device)
        for timestep in timesteps:
            self._unet(
                self._latents,
                timestep,
                encoder_hidden_states=self._texts,
                added_cond_kwargs=self._added,
                return_dict=False,
            )
        self._vae.decode(self._latents[:1], return_dict=False)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
