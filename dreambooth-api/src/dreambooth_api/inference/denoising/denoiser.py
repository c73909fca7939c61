"""The pictures under way on one UNet: who steps next, in which batch, and what a failed step ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from enlight_common.errors import OutOfMemory

from dreambooth_api.inference.denoising.adapters import Apply, BatchAdapters
from dreambooth_api.inference.denoising.batch_sizes import BatchSizes
from dreambooth_api.inference.denoising.composition import Composition, arranged
from dreambooth_api.inference.denoising.fairness import TURN_STEPS, FairShares
from dreambooth_api.inference.denoising.pace import Pace
from dreambooth_api.inference.denoising.previews import Previews
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.within_memory import within_memory

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What was done so far; other threads may read it."""

    #: Forward passes, and the steps of pictures in them.
    batches: int = 0
    picture_steps: int = 0
    #: Pictures in the present batch, and those under way that are not in it.
    batch: int = 0
    waiting: int = 0


class Denoiser:
    """A plain object, for one thread: ``admit`` pictures, and ``step`` as long as there are any.

    A new picture is in the next step where the batch has room for it. Where it has none, it waits until
    a picture is done, or for the turn's end: then the batch is picked anew by who was served least.
    """

    def __init__(
        self,
        unet: Any,
        adapters: BatchAdapters,
        sizes: BatchSizes,
        device: torch.device,
        dtype: torch.dtype,
        previews: Previews | None = None,
    ) -> None:
        self._previews = previews
        self._unet, self._adapters, self._sizes = unet, adapters, sizes
        self._device, self._dtype = device, dtype
        self._shares = FairShares()
        self._pace = Pace(device)
        self._pictures: list[PictureUnderWay] = []
        self._batch: Composition | None = None
        #: Those of the present batch, or of the last one who go on.
        self._chosen: list[PictureUnderWay] = []
        #: Those of the last batch by their places in it.
        self._places: list[PictureUnderWay] = []
        self._apply: Apply = _nothing
        #: Steps since a batch was last picked regardless of who was stepping.
        self._turn = 0
        self.counts = Counts()

    @property
    def busy(self) -> bool:
        """Whether any picture is under way."""
        return bool(self._pictures)

    def admit(self, picture: PictureUnderWay) -> None:
        """Take a picture on."""
        for tensor in (picture.latents, picture.previous_x0, *picture.conditioning.tensors):
            self._pace.came_from_beside(tensor)
        self._pictures.append(picture)
        if self._batch is not None and self._fits(self._chosen, picture):
            self._break_up()

    def step(self) -> list[PictureUnderWay]:
        """Take one step of a batch; gives the pictures that are done, which it knows no more.

        What goes wrong ends the requests that it happened to, and nothing else.
        """
        self._drop_those_over()
        if not self._pictures:
            self._pace.pause()
            return []
        self._choose()
        batch: Composition | None = None
        try:
            with within_memory(), torch.inference_mode():
                batch = self._batch or self._put_together()
                self._pace.begin()
                self._apply()
                batch.step(self._unet)
                seconds = self._pace.stepped(finished=batch.over)
        except OutOfMemory:
            batch = None
        except Exception as error:
            log.exception("a step failed")
            self._end(error)
            return []
        if batch is None:
            # Out of the except block, whose traceback keeps what was computed in memory.
            self._did_not_fit()
            return []
        self._account(batch, seconds)
        self._show(batch)
        if not batch.over:
            return []
        self._break_up()
        done = [picture for picture in batch.pictures if picture.steps_left == 0]
        self._forget(done)
        return done

    def pause(self) -> None:
        """The device is somebody else's until the next step."""
        self._pace.pause()

    def give_up(self, error: Exception) -> None:
        """End everybody's pictures, after something that should not have happened."""
        for picture in self._pictures:
            picture.submission.fail(error)
        self._batch, self._turn = None, 0
        self._forget(self._pictures)

    def _drop_those_over(self) -> None:
        if self._batch is not None:
            for submission in self._batch.submissions:
                submission.look()
        over = [picture for picture in self._pictures if picture.submission.over]
        if over:
            self._break_up()
            self._forget(over)

    def _choose(self) -> None:
        """Decide who steps now, unless the present batch simply goes on."""
        others_wait = len(self._pictures) > len(self._chosen)
        if self._turn >= TURN_STEPS and others_wait:
            self._break_up()
            self._chosen, self._turn = [], 0
        if self._batch is None:
            picked = self._shares.pick(self._pictures, self._fits, keep=self._chosen)
            self._chosen = arranged(picked, self._places)
            self.counts.batch = len(self._chosen)
            self.counts.waiting = len(self._pictures) - len(self._chosen)

    def _put_together(self) -> Composition:
        batch = Composition(self._chosen, self._device, self._dtype)
        self._apply = self._adapters.of_batch(batch.pictures)
        self._batch, self._places = batch, batch.pictures
        return batch

    def _fits(self, batch: Sequence[PictureUnderWay], picture: PictureUnderWay) -> bool:
        return (
            picture.shape == batch[0].shape
            and len(batch) < self._sizes.limit(picture.shape)
            and self._adapters.hold([one.adapters for one in (*batch, picture)])
        )

    def _break_up(self) -> None:
        """End the present batch; its pictures have their latents, and are the first of the next."""
        if self._batch is not None:
            self._batch.write_back()
            self._batch = None

    def _forget(self, pictures: Sequence[PictureUnderWay]) -> None:
        gone = set(pictures)
        self._pictures = [picture for picture in self._pictures if picture not in gone]
        self._chosen = [picture for picture in self._chosen if picture not in gone]
        if not self._pictures:
            # What is idle holds no pictures.
            self._places, self._apply = [], _nothing
            self.counts.batch = self.counts.waiting = 0

    def _did_not_fit(self) -> None:
        size = len(self._chosen)
        log.warning("a batch did not fit into the device's memory", extra={"pictures": size})
        self._break_up()
        if size == 1:
            self._end(OutOfMemory("a picture of this size does not fit into the memory now"))
        else:
            self._sizes.does_not_fit(self._chosen[0].shape, size)
            self._chosen, self._turn = [], 0
        self._pace.empty_memory()

    def _end(self, error: Exception) -> None:
        """Give up those who are stepping."""
        for picture in self._chosen:
            picture.submission.fail(error)
        self._break_up()
        self._forget(self._chosen)

    def _show(self, batch: Composition) -> None:
        """Have those pictures seen that are wanted to be, and are not done."""
        if self._previews is None:
            return
        wanted = [
            one for one in batch.pictures if one.steps_left and one.submission.is_shown_at(one.position)
        ]
        if wanted:
            batch.write_back()
            self._previews.show(wanted, self._pace.mark())

    def _account(self, batch: Composition, seconds: float) -> None:
        pictures = batch.pictures
        self._sizes.observe(pictures[0].shape, len(pictures), seconds)
        self._shares.charge(pictures)
        self._turn += 1
        self.counts.batches += 1
        self.counts.picture_steps += len(pictures)
        counted = batch.counted
        for submission, number in batch.submissions.items():
            submission.stepped(counted[submission], seconds * number / len(pictures))


def _nothing() -> None:
    """No adapters are there for no batch."""
