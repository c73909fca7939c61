"""The thread that takes the steps."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from enlight_common.errors import ShuttingDown
from enlight_common.leaving import WORDS

from dreambooth_api.inference.denoising.denoiser import Denoiser
from dreambooth_api.inference.denoising.turns import Party
from dreambooth_api.inference.denoising.underway import PictureUnderWay

log = logging.getLogger(__name__)


class StepLoop:
    """Steps as long as there are pictures, and gives those done to *finished*."""

    def __init__(self, denoiser: Denoiser, turns: Party, finished: Callable[[PictureUnderWay], None]) -> None:
        self._denoiser, self._turns, self._finished = denoiser, turns, finished
        self._arrived: deque[PictureUnderWay] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._has_turn = False
        self._thread = threading.Thread(target=self._step_forever, name="denoising", daemon=True)
        self._thread.start()

    def submit(self, pictures: Sequence[PictureUnderWay]) -> None:
        """Have these stepped from the next step on."""
        with self._changed:
            if not self._closing:
                self._arrived.extend(pictures)
                self._changed.notify()
                return
        for picture in pictures:
            picture.submission.fail(ShuttingDown(WORDS))

    def close(self, deadline: float) -> None:
        """Give up what is under way and end, by *deadline* (``time.monotonic``) or after the present step."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _step_forever(self) -> None:
        while self._wait():
            try:
                self._step()
            except Exception as error:
                # Whoever waits is told, and the thread goes on: without it nobody would ever be answered.
                log.exception("the pictures under way were given up")
                self._denoiser.give_up(error)
            if self._has_turn and (self._turns.over or not self._denoiser.busy):
                self._end_turn()
        self._admit()
        self._denoiser.give_up(ShuttingDown(WORDS))
        if self._has_turn:
            self._end_turn()

    def _step(self) -> None:
        self._admit()
        if not self._has_turn:
            self._turns.take()
            self._has_turn = True
        for picture in self._denoiser.step():
            self._finished(picture)

    def _admit(self) -> None:
        with self._changed:
            arrived, self._arrived = self._arrived, deque()
        for picture in arrived:
            self._denoiser.admit(picture)

    def _end_turn(self) -> None:
        self._denoiser.pause()
        self._has_turn = False
        self._turns.give_back()

    def _wait(self) -> bool:
        """Wait until there is something to step; False where there will be nothing any more."""
        with self._changed:
            while not (self._arrived or self._denoiser.busy or self._closing):
                self._changed.wait()
            return not self._closing
