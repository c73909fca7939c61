"""What a loaded base model is drawn with."""

from __future__ import annotations

from dataclasses import replace

import torch
from enlight_common.memory import available_bytes

from dreambooth_api.inference.denoising.adapters import SLOTS, BatchAdapters
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.batched import BatchedDrawings
from dreambooth_api.inference.denoising.compiled_blocks import compile_blocks
from dreambooth_api.inference.denoising.kept_figures import KeptFigures
from dreambooth_api.inference.denoising.rehearsal import Rehearsal
from dreambooth_api.inference.denoising.turns import Turns
from dreambooth_api.inference.lora import LayerNames, LoraLayers
from dreambooth_api.inference.pipelines import PipelineSet
from dreambooth_api.inference.reference import PlainDrawings
from dreambooth_api.inference.request import MIN_SIDE, Drawing


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
        self._layers = LoraLayers(unet, slots=SLOTS, units=units, unit_bytes=unit_bytes)
        applied = BatchAdapters(self._layers)
        self.pipelines = pipelines
        self.names = LayerNames.of_pipeline(pipelines.text)
        self.batched = BatchedDrawings(pipelines, applied, turns.party(), sizes, figures)
        self.plain = PlainDrawings(turns.party(), applied, self.batched.decoder, sizes.for_others())

    def compile(self, drawing: Drawing, *, must_pay: bool) -> bool:
        """Compile the UNet's blocks, before the first picture, for batches of pictures like *drawing*'s.

        Whether they are compiled now. Raises CompilerFailed: see ``compile_blocks``.
        """
        trajectory = self.batched.trajectory(drawing)
        if trajectory is None:
            return False
        unet, two = self.pipelines.text.unet, replace(drawing, num_image=2, guidance_scale=2.0)
        guided, unguided, control = (
            self.batched.pictures(one, trajectory)
            for one in (
                two,
                replace(two, guidance_scale=1.0),
                replace(two, num_image=3, height=max(MIN_SIDE, drawing.height // 2)),
            )
        )
        rehearsal = Rehearsal(unet, self._layers, guided, unguided, control, unet.dtype)
        return compile_blocks(unet, rehearsal, must_pay=must_pay)


def _free_bytes(device: torch.device) -> int:
    """Of the device's memory, or for the CPU what the machine or its container has available."""
    if device.type != "cuda":
        return available_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    return free
