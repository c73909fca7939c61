"""One request among the pictures under way: what its caller waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import PIL.Image
from enlight_common.errors import TimedOut
from enlight_common.queue import Canceled, Stop

OnStep = Callable[[int, int], None]

#: How often a caller that waits looks whether its client is still there, in seconds.
_LOOK_S = 0.25


class Submission:
    """A request's pictures, from its arrival until all are decoded, or the first of them failed.

    Its caller waits in ``result``; all else is told by the threads that draw.
    """

    def __init__(
        self,
        pictures: int,
        *,
        stop: Stop = lambda: False,
        on_step: OnStep | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """*stop* is asked and *on_step* told between steps, in the thread that takes them; *deadline_s* is
        how long all of it may take from now on.
        """
        self._stop, self._on_step = stop, on_step
        self._images: list[PIL.Image.Image | None] = [None] * pictures
        self._steps_done = 0
        self._steps = 0
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._deadline = None if deadline_s is None else time.monotonic() + deadline_s
        #: What of its prompt did not fit the text encoder.
        self.truncated_prompt: str | None = None
        #: Seconds of the device that its pictures took; a step of a batch counts in equal parts.
        self.device_seconds = 0.0

    @property
    def over(self) -> bool:
        """Whether nobody waits for its pictures any more: they are done, or will never be."""
        return self._over.is_set()

    def result(self) -> list[PIL.Image.Image]:
        """Wait for the pictures, in order.

        Raises:
            Canceled: its stop said yes.
            TimedOut: its deadline passed.
            Exception: what drawing them raised.
        """
        while not self._over.wait(_LOOK_S):
            self.look()
        if self._error is not None:
            raise self._error
        return [image for image in self._images if image is not None]

    def expect(self, steps: int) -> None:
        """Tell how many steps all its pictures take together."""
        self._steps = steps

    def look(self) -> None:
        """Give up where its client is gone or its deadline passed."""
        try:
            if self._stop():
                self.fail(Canceled())
            elif self._deadline is not None and time.monotonic() > self._deadline:
                self.fail(TimedOut("the pictures took longer than allowed"))
        except Exception as error:
            self.fail(error)

    def stepped(self, pictures: int, seconds: float) -> None:
        """Tell that so many of its pictures took a step, and their part of the device's time."""
        self._steps_done += pictures
        self.device_seconds += seconds
        if self._on_step is not None:
            try:
                self._on_step(self._steps_done, self._steps)
            except Exception as error:
                self.fail(error)

    def deliver(self, index: int, image: PIL.Image.Image) -> None:
        """Hand over picture *index*."""
        self._images[index] = image
        if all(image is not None for image in self._images):
            self._over.set()

    def fail(self, error: BaseException) -> None:
        """End it without pictures; the first reason counts."""
        if not self._over.is_set():
            self._error = error
            self._over.set()
