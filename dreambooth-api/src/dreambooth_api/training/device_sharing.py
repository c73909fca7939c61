"""Tells the trainer when pictures are wanted of its device, so that it can let them go first."""

from __future__ import annotations

import threading
from typing import Protocol


class Sharer(Protocol):
    """A `TrainerProcess`."""

    def pictures_waiting(self, waiting: bool) -> None: ...


class DeviceSharing:
    """The drawing side calls `pictures_waiting`, the training side the rest; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = False
        self._trainer: Sharer | None = None

    def pictures_waiting(self, waiting: bool) -> None:
        """Pictures are being drawn or wait to be, or none are any more. A comparison, unless it changes."""
        if waiting == self._waiting:
            return
        with self._lock:
            self._waiting = waiting
            if self._trainer is not None:
                self._trainer.pictures_waiting(waiting)

    def attach(self, trainer: Sharer) -> None:
        """From now on this one is told, and at once if pictures are wanted already."""
        with self._lock:
            self._trainer = trainer
            if self._waiting:
                trainer.pictures_waiting(True)

    def detach(self) -> None:
        """Its run has ended."""
        with self._lock:
            self._trainer = None
