"""Batches of every kind that there will be, before there are pictures: what has to be compiled for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dreambooth_api.inference.denoising.composition import Composition
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.lora import LoraLayers
from dreambooth_api.inference.lora.layout import LayerGroup


@dataclass(frozen=True)
class Kind:
    """Batches that are computed alike, whatever their number of pictures, adapters and size."""

    #: With two rows a picture.
    guided: bool
    #: Which layers of the blocks the batch's adapters change: "none", those of "attention", or "all". One
    #: that changes others, as few do, is not rehearsed.
    adapted: str
    #: Whether pictures have different adapters.
    mixed: bool


KINDS = tuple(
    Kind(guided, adapted, mixed)
    for guided in (True, False)
    for adapted in ("none", "attention", "all")
    for mixed in (False, True)
    if adapted != "none" or not mixed
)
#: Of what is computed with code that was made for two pictures of another size.
CONTROL = Kind(guided=True, adapted="attention", mixed=True)


class Rehearsal:
    """Batches of all kinds, of pictures that nobody waits for, with random adapters."""

    def __init__(
        self,
        unet: Any,
        layers: LoraLayers,
        guided: Sequence[PictureUnderWay],
        unguided: Sequence[PictureUnderWay],
        control: Sequence[PictureUnderWay],
        dtype: torch.dtype,
    ) -> None:
        """*guided* and *unguided*: two pictures each; *control*: three guided ones of another size."""
        self._unet, self._layers = unet, layers
        self._guided, self._unguided, self._control = guided, unguided, control
        self._dtype = dtype
        repeated = repeated_blocks(unet)
        self._paths = tuple(f"{name}." for name, module in unet.named_modules() if module in repeated)

    def batches(self) -> Iterator[tuple[Kind, Callable[[], Tensor]]]:
        """Each kind with what computes such a batch: the UNet's output. Its adapters are in use until the
        next one is asked for, or ``close``.
        """
        for kind in KINDS:
            pictures = self._guided if kind.guided else self._unguided
            # One picture alone: sizes of 1 are compiled apart from all others.
            yield kind, self._batch(kind, pictures if kind.mixed else pictures[:1])

    def control(self) -> Callable[[], Tensor]:
        """What computes a batch of more pictures, of another size, with code that is there by now."""
        return self._batch(CONTROL, self._control)

    def close(self) -> None:
        """Leave the base model in use, and no memory taken."""
        self._layers.free()

    @torch.inference_mode()
    def _batch(self, kind: Kind, pictures: Sequence[PictureUnderWay]) -> Callable[[], Tensor]:
        batch = Composition(pictures, pictures[0].latents.device, self._dtype)
        texts = [
            self._layers.text_keys_values(torch.cat([text.embeddings for text in one.conditioning.texts]))
            for one in batch.pictures
        ]
        units = len(pictures) if kind.mixed else 1
        self._layers.use(self._layers.gather_random(partial(self._changes, kind), units, texts))

        @torch.inference_mode()
        def predict() -> Tensor:
            return batch.predict(self._unet)

        return predict

    def _changes(self, kind: Kind, group: LayerGroup) -> bool:
        """Whether the kind's adapters change the group; never one without layers in the blocks."""
        if kind.adapted == "none" or not any(name.startswith(self._paths) for name in group.names):
            return False
        return kind.adapted == "all" or group.in_attention


def repeated_blocks(unet: Any) -> set[Any]:
    """The modules that diffusers says repeat."""
    kinds = getattr(unet, "_repeated_blocks", None) or ()
    return {module for module in unet.modules() if type(module).__name__ in kinds}
