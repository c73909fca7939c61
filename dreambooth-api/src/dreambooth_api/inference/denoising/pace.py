"""The device's clock: steps are queued one ahead on CUDA, and done when the call returns on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Pace:
    """Keeps Python one step ahead of the device and no more, so that a step's length is known, and a picture
    that leaves or joins does so at the next one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._queued: Any = None
        self._last: float | None = None

    def begin(self) -> None:
        """A step begins."""
        if self._last is None or not self._cuda:
            self._last = time.perf_counter()

    def stepped(self, *, finished: bool) -> float:
        """Seconds that the step took, or on CUDA that passed since the step before was done. There it
        waits for that one, or for this one where its latents are wanted elsewhere (*finished*).
        """
        if self._cuda:
            event = self._recorded()
            (event if finished or self._queued is None else self._queued).synchronize()
            self._queued = event
        now = time.perf_counter()
        seconds = 0.0 if self._last is None else now - self._last
        self._last = now
        return seconds

    def pause(self) -> None:
        """No step of ours is next: what passes until one is counts for none."""
        self._last = self._queued = None

    def came_from_beside(self, tensor: Tensor) -> None:
        """Keep memory that another stream allocated until this one is done with it."""
        if self._cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))

    def mark(self) -> Callable[[], None]:
        """A wait, for another stream, until what is queued by now is done."""
        if not self._cuda:
            return lambda: None
        event = self._recorded()
        return lambda: torch.cuda.current_stream(self._device).wait_event(event)

    def _recorded(self) -> Any:
        """An event of this device's stream; the thread's present device may be another."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def empty_memory(self) -> None:
        """Give back what the allocator keeps, after it had too little."""
        self.pause()
        if self._cuda:
            torch.cuda.empty_cache()
