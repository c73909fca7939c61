"""Which adapters a picture has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dreambooth_api.inference.lora import AdapterWeights
from dreambooth_api.models.artifact import ModelKey


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
