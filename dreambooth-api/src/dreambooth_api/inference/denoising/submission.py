"""One request among the pictures under way: what its caller waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import PIL.Image

from dreambooth_api.inference.caller import LOOK_S, PATIENT, Caller

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Progress:
    """*done* of all *steps* of a request's pictures together."""

    done: int
    steps: int


@dataclass(frozen=True)
class Shown:
    """Picture *index*: whole, or how it looks like after *step* steps, small."""

    index: int
    image: PIL.Image.Image
    step: int | None = None


News = Progress | Shown


class Submission:
    """A request's pictures, from its arrival until all are decoded, or the first of them failed.

    Its caller waits in ``result`` or ``news``; all else is told by the threads that draw.
    """

    def __init__(
        self,
        pictures: int,
        caller: Caller = PATIENT,
        *,
        on_step: OnStep | None = None,
        on_end: Callable[[], None] = lambda: None,
        preview_steps: int | None = None,
    ) -> None:
        """*on_step* is told between steps, in the thread that takes them, and *on_end*, in any thread, when
        nothing more is drawn. *preview_steps* is after how many steps each picture is wanted to be seen; None
        for not before it is done.
        """
        self._caller, self._on_step, self._on_end = caller, on_step, on_end
        self._preview_steps = preview_steps
        self._followed = False
        self._previews: dict[int, Shown] = {}
        self._images: list[PIL.Image.Image | None] = [None] * pictures
        self._changed = threading.Condition()
        self._over = False
        self._error: BaseException | None = None
        self._steps_done = 0
        self._steps = 0
        #: What of its prompt did not fit the text encoder.
        self.truncated_prompt: str | None = None
        #: The class of the scheduler that its model comes with, once the first picture is there.
        self.own_scheduler = ""
        #: Seconds of the device that its pictures took; a step of a batch counts in equal parts.
        self.device_seconds = 0.0

    @property
    def over(self) -> bool:
        """Whether nobody waits for its pictures any more: they are done, or will never be."""
        return self._over

    def result(self) -> list[PIL.Image.Image]:
        """Wait for the pictures, in order.

        Raises:
            Canceled, TimedOut: as ``Caller.check`` does.
            Exception: what drawing them raised.
        """
        while not self._wait():
            self.look()
        if self._error is not None:
            raise self._error
        return [image for image in self._images if image is not None]

    def _wait(self) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._over, LOOK_S)

    def news(self) -> Iterator[News | None]:
        """What happens, until all pictures were told. What happens between two times that it is asked is told
        as it is then; None where nothing did for a while.

        Raises as ``result``, once nothing is left to tell.
        """
        told_steps = 0
        told: set[int] = set()
        self._followed = True
        while len(told) < len(self._images):
            with self._changed:
                self._changed.wait_for(partial(self._has_news, told_steps, told), LOOK_S)
                done, previews, self._previews = self._steps_done, self._previews, {}
                pictures = [
                    Shown(index, image)
                    for index, image in enumerate(self._images)
                    if image is not None and index not in told
                ]
                error = self._error
            if error is None:
                self.look()
            if done != told_steps:
                told_steps = done
                yield Progress(done, self._steps)
            yield from previews.values()
            for picture in pictures:
                told.add(picture.index)
                yield picture
            if error is not None:
                raise error
            if not (previews or pictures):
                yield None

    def _has_news(self, told_steps: int, told: set[int]) -> bool:
        there = sum(image is not None for image in self._images)
        return self._over or self._steps_done != told_steps or bool(self._previews) or there > len(told)

    def expect(self, steps: int) -> None:
        """Tell how many steps all its pictures take together."""
        self._steps = steps

    def look(self) -> None:
        """Give up where its caller waits no more."""
        try:
            self._caller.check()
        except Exception as error:
            self.fail(error)

    def stepped(self, pictures: int, seconds: float) -> None:
        """Tell that so many of its pictures took a step, and their part of the device's time."""
        self._steps_done += pictures
        self.device_seconds += seconds
        if self._followed:
            # Nobody else wakes up at every step.
            with self._changed:
                self._changed.notify_all()
        if self._on_step is not None:
            try:
                self._on_step(self._steps_done, self._steps)
            except Exception as error:
                self.fail(error)

    def take_back(self, steps: int) -> None:
        """Tell that so many steps of its pictures are to be done again."""
        self._steps_done -= steps

    def is_shown_at(self, step: int) -> bool:
        """Whether a picture of which that many steps are done is wanted to be seen."""
        return self._preview_steps is not None and step % self._preview_steps == 0

    def show(self, preview: Shown) -> None:
        """Hand over how a picture looks like that is not done; only the last of each is of interest."""
        with self._changed:
            if self._images[preview.index] is None:
                self._previews[preview.index] = preview
                self._changed.notify_all()

    def deliver(self, index: int, image: PIL.Image.Image) -> None:
        """Hand over picture *index*."""
        with self._changed:
            self._images[index] = image
            self._previews.pop(index, None)
            ends = not self._over and all(image is not None for image in self._images)
            if ends:
                self._over = True
            if ends or self._followed:
                self._changed.notify_all()
        if ends:
            self._on_end()

    def fail(self, error: BaseException) -> None:
        """End it without pictures; the first reason counts."""
        with self._changed:
            if self._over:
                return
            self._error, self._over = error, True
            self._changed.notify_all()
        self._on_end()
