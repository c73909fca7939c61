"""The thread that takes the steps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from dreambooth_api.inference.denoising.denoiser import Denoiser
from dreambooth_api.inference.denoising.turns import Turns
from dreambooth_api.inference.denoising.underway import PictureUnderWay

log = logging.getLogger(__name__)


class StepLoop:
    """Steps as long as there are pictures, and gives those done to *finished*; calls *ended* last."""

    def __init__(
        self,
        denoiser: Denoiser,
        turns: Turns,
        finished: Callable[[PictureUnderWay], None],
        ended: Callable[[], None],
    ) -> None:
        self._denoiser, self._turns, self._finished, self._ended = denoiser, turns, finished, ended
        self._arrived: deque[PictureUnderWay] = deque()
        self._changed = threading.Condition()
        self._closing = False
        threading.Thread(target=self._step_forever, name="denoising", daemon=True).start()

    def submit(self, pictures: Sequence[PictureUnderWay]) -> None:
        """Have these stepped from the next step on."""
        with self._changed:
            self._arrived.extend(pictures)
            self._changed.notify()

    def close(self) -> None:
        """End when no picture is under way any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _step_forever(self) -> None:
        while self._wait():
            try:
                self._step()
            except Exception as error:
                # Whoever waits is told, and the thread goes on: without it nobody would ever be answered.
                log.exception("the pictures under way were given up")
                self._denoiser.give_up(error)
        self._ended()

    def _step(self) -> None:
        with self._changed:
            arrived, self._arrived = self._arrived, deque()
        for picture in arrived:
            self._denoiser.admit(picture)
        with self._turns:
            done = self._denoiser.step()
        for picture in done:
            self._finished(picture)

    def _wait(self) -> bool:
        """Wait until there is something to step; False where there will not be."""
        with self._changed:
            while not (self._arrived or self._denoiser.busy or self._closing):
                self._changed.wait()
            return bool(self._arrived) or self._denoiser.busy
