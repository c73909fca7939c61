"""Where every random number of a training comes from: generators on the CPU that are saved with a
checkpoint.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


class Randomness:
    """Two streams from one seed, so that how photos are chosen does not depend on how large latents are."""

    def __init__(self, seed: int) -> None:
        self.order = Generator().manual_seed(seed)
        self.noise = Generator().manual_seed(seed ^ 0x5DEECE66D)

    def state(self) -> dict[str, Tensor]:
        """The states as uint8 tensors."""
        return {"order": self.order.get_state(), "noise": self.noise.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.order.set_state(state["order"])
        self.noise.set_state(state["noise"])

    def normal_like(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.noise)


class Shuffle:
    """An endless stream of the numbers below `count`: each comes once before any comes again."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._left = torch.empty(0, dtype=torch.int64)

    def take(self, number: int, generator: Generator) -> Tensor:
        """The next `number` of them, shape (number,)."""
        while len(self._left) < number:
            self._left = torch.cat([self._left, torch.randperm(self._count, generator=generator)])
        taken, self._left = self._left[:number], self._left[number:]
        return taken

    def state(self) -> Tensor:
        return self._left.clone()

    def restore(self, left: Tensor) -> None:
        self._left = left.clone()
