"""How a network gets the adapters of a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch

from dreambooth_api.inference.denoising.adapter_sets import AdapterSet
from dreambooth_api.inference.denoising.conditioning import Conditioning
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.lora import Gathered, LoraLayers, TextKeysValues
from dreambooth_api.models.artifact import ModelKey

#: Different adapters in one batch.
SLOTS = 8

#: Has the adapters there for the forward pass that follows.
Apply = Callable[[], None]


class MergedAdapters:
    """One set of adapters in all of a network's forward passes. For one thread, or for who has the device's
    turn.
    """

    def __init__(self, layers: LoraLayers) -> None:
        self._layers = layers
        #: What was merged last, by keys and weights: the adapters themselves would stay in memory.
        self._merged: tuple[Hashable, ReferenceType[Gathered]] | None = None

    def merge(self, adapters: AdapterSet) -> None:
        """Have these, and no others, in it until others are wanted there."""
        if not adapters:
            self._layers.use(None)
            return
        wanted = tuple((use.key, use.weight) for use in adapters.uses)
        merged, gathered = self._merged, None
        if merged is not None and merged[0] == wanted:
            gathered = merged[1]()
        if gathered is None or not self._layers.is_fresh(gathered):
            self._merged = None
            gathered = self._layers.gather_merged([(use.weights, use.weight) for use in adapters.uses])
            self._merged = wanted, ref(gathered)
        self._layers.use(gathered)


class BatchAdapters(MergedAdapters):
    """The adapters of a batch, whose pictures may have different ones. For who has the device's turn."""

    def __init__(self, layers: LoraLayers) -> None:
        super().__init__(layers)
        self._texts: WeakKeyDictionary[Conditioning, TextKeysValues] = WeakKeyDictionary()

    def hold(self, sets: Sequence[AdapterSet]) -> bool:
        """Whether pictures with these can step together."""
        return len({model for one in sets for model in one.models}) <= SLOTS

    def of_batch(self, pictures: Sequence[PictureUnderWay]) -> Apply:
        """What is to be called before each forward pass of these pictures, in the order of their rows."""
        gathered = self._gather(pictures)

        def apply() -> None:
            nonlocal gathered
            if not self._layers.is_fresh(gathered):
                # Between two steps the plain pipelines had others.
                gathered = self._gather(pictures)
            self._layers.use(gathered)

        return apply

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
