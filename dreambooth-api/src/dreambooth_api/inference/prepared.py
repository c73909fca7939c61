"""A request between its arrival and its pictures."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType

from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.picture import ModelUse, Recipe
from dreambooth_api.inference.request import Drawing
from dreambooth_api.models.artifact import Artifact
from dreambooth_api.models.bases import BaseModel


@dataclass(frozen=True)
class Prepared:
    """A request whose models are at hand, and stay so until the context ends, and whose settings are
    decided.
    """

    drawing: Drawing
    uses: tuple[ModelUse, ...]
    artifacts: tuple[Artifact, ...]
    base: BaseModel
    lora_scale: float
    held: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)

    def __enter__(self) -> Prepared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held.close()

    @property
    def full(self) -> bool:
        """Whether it is drawn by a whole fine-tune instead of the base model with adapters."""
        return bool(self.uses) and self.uses[0].method == "full"

    def recipe(self, whose: Submission) -> Recipe:
        """How its pictures are made, once the first of *whose* is there."""
        return Recipe(
            drawing=self.drawing,
            models=self.uses,
            base=self.base.name,
            scheduler=self.drawing.scheduler or whose.own_scheduler,
            lora_scale=self.lora_scale,
        )
