"""Networks that can be stopped while they run, between two of their layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from enlight_common.queue import Canceled, Stop

#: Layers that take long enough for a stop to be looked for before each.
_LAYERS = (torch.nn.Conv2d, torch.nn.Linear)


class Stoppable:
    """The networks of an engine, used from one thread."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self._stop: Stop | None = None
        for module in modules:
            for layer in module.modules():
                if isinstance(layer, _LAYERS):
                    layer.register_forward_pre_hook(self._look)

    @contextlib.contextmanager
    def by(self, stop: Stop) -> Iterator[None]:
        """In the block, let the networks raise Canceled when *stop* says so."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None

    def _look(self, _module: torch.nn.Module, _inputs: object) -> None:
        if self._stop is not None and self._stop():
            raise Canceled
