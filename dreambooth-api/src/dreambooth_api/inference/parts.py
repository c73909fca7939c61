"""What a loaded base model is drawn with."""

from __future__ import annotations

import torch
from enlight_common.memory import available_bytes

from dreambooth_api.inference.denoising.adapters import SLOTS, BatchAdapters
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.batched import BatchedDrawings
from dreambooth_api.inference.denoising.kept_figures import KeptFigures
from dreambooth_api.inference.denoising.turns import Turns
from dreambooth_api.inference.lora import LayerNames, LoraLayers
from dreambooth_api.inference.pipelines import PipelineSet
from dreambooth_api.inference.reference import PlainDrawings


class Parts:
    """What a loaded base model is drawn with."""

    def __init__(
        self,
        pipelines: PipelineSet,
        sizes: BatchSizes,
        units: int,
        memory_share: float,
        figures: KeptFigures | None,
    ) -> None:
        """*units*: pictures in a batch, at most. *memory_share*: of the memory that is free now, what the
        adapters of a batch may take.
        """
        unet = pipelines.text.unet
        unit_bytes = int(memory_share * _free_bytes(unet.device))
        turns = Turns()
        applied = BatchAdapters(LoraLayers(unet, slots=SLOTS, units=units, unit_bytes=unit_bytes))
        self.pipelines = pipelines
        self.names = LayerNames.of_pipeline(pipelines.text)
        self.batched = BatchedDrawings(pipelines, applied, turns.party(), sizes, figures)
        self.plain = PlainDrawings(turns.party(), applied, self.batched.decoder, sizes.for_others())


def _free_bytes(device: torch.device) -> int:
    """Of the device's memory, or for the CPU what the machine or its container has available."""
    if device.type != "cuda":
        return available_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    return free
