"""Which adapters a picture has, and how a network gets those of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.lora import AdapterWeights, Gathered, LoraLayers, TextKeysValues
from dreambooth_api.models.artifact import ModelKey

if TYPE_CHECKING:
    from dreambooth_api.inference.denoising.underway import PictureUnderWay

#: Different adapters in one batch.
SLOTS = 8


@dataclass(frozen=True)
class AdapterUse:
    """An adapter and how strongly it is applied."""

    key: ModelKey
    weights: AdapterWeights = field(compare=False, repr=False)
    weight: float


@dataclass(frozen=True)
class AdapterSet:
    """What one picture is drawn with; equal sets make the same network."""

    uses: tuple[AdapterUse, ...] = ()

    @property
    def models(self) -> tuple[ModelKey, ...]:
        """Whose share of the device it takes."""
        return tuple(use.key for use in self.uses)

    def __bool__(self) -> bool:
        return bool(self.uses)


def adapter_set(uses: Sequence[AdapterUse]) -> AdapterSet:
    """The set of *uses*, whatever their order; what has no weight is left out."""
    chosen = [use for use in uses if use.weight != 0]
    return AdapterSet(tuple(sorted(chosen, key=lambda use: (use.key.tenant, use.key.pinned))))


NO_ADAPTERS = AdapterSet()

#: Makes the context of a forward pass in which the adapters are there.
Applied = Callable[[], AbstractContextManager[None]]


class MergedAdapters:
    """One set of adapters in all of a network's forward passes. For one thread, or for who has the device's
    turn.
    """

    def __init__(self, layers: LoraLayers) -> None:
        self._layers = layers
        self._merged = NO_ADAPTERS
        #: Counts the merges, each of which takes the place of what was gathered before.
        self._merges = 0

    def merge(self, adapters: AdapterSet) -> None:
        """Have these, and no others, in it until others are wanted there."""
        if adapters == self._merged:
            return
        self._layers.restore()
        self._merged = NO_ADAPTERS
        if adapters:
            self._merges += 1
            self._layers.merge([(use.weights, use.weight) for use in adapters.uses])
            self._merged = adapters


class BatchAdapters(MergedAdapters):
    """The adapters of a batch, whose pictures may have different ones. For who has the device's turn."""

    def __init__(self, layers: LoraLayers) -> None:
        super().__init__(layers)
        self._texts: WeakKeyDictionary[Conditioning, TextKeysValues] = WeakKeyDictionary()

    def hold(self, sets: Sequence[AdapterSet]) -> bool:
        """Whether pictures with these can step together."""
        return len({model for one in sets for model in one.models}) <= SLOTS

    def of_batch(self, pictures: Sequence[PictureUnderWay]) -> Applied:
        """What each forward pass of these pictures, in the order of their rows, is to be in."""
        self.merge(NO_ADAPTERS)
        gathered, merges = self._gather(pictures), self._merges

        def applied() -> AbstractContextManager[None]:
            nonlocal gathered, merges
            # Between two steps the plain pipelines may have had others.
            self.merge(NO_ADAPTERS)
            if merges != self._merges:
                gathered, merges = self._gather(pictures), self._merges
            return self._layers.using(gathered)

        return applied

    def _gather(self, pictures: Sequence[PictureUnderWay]) -> Gathered:
        slots: dict[ModelKey, int] = {}
        for picture in pictures:
            for use in picture.adapters.uses:
                slots[use.key] = self._layers.place(use.key, use.weights, tuple(slots.values()))
        weights = [{slots[use.key]: use.weight for use in picture.adapters.uses} for picture in pictures]
        texts = [self._text(picture, own) for picture, own in zip(pictures, weights, strict=True)]
        rows = [own for picture, own in zip(pictures, weights, strict=True) for _ in range(picture.rows)]
        return self._layers.gather(rows, texts)

    def _text(self, picture: PictureUnderWay, weights: dict[int, float]) -> TextKeysValues:
        """Made once for all pictures of a request, whose prompts and adapters are the same."""
        made = self._texts.get(picture.conditioning)
        if made is None:
            embeddings = torch.cat([text.embeddings for text in picture.conditioning.texts])
            made = self._texts[picture.conditioning] = self._layers.text_keys_values(embeddings, weights)
        return made
