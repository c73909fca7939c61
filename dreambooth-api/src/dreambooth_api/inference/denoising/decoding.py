"""Finished latents to pictures, beside the steps of others."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

import PIL.Image
import torch
from enlight_common.errors import OutOfMemory
from torch import Tensor

from dreambooth_api.inference.denoising.autoencoder import Autoencoder
from dreambooth_api.inference.denoising.batch_sizes import FittingSizes, Shape
from dreambooth_api.inference.denoising.beside import SideThread
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.within_memory import within_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedLatents:
    """A picture's latents, (channels, height, width), as picture *index* of a request."""

    submission: Submission
    index: int
    latents: Tensor
    autoencoder: Autoencoder

    @property
    def shape(self) -> Shape:
        """Height and width of the latents."""
        return self.latents.shape[-2], self.latents.shape[-1]


class Decoder:
    """Decodes what was handed over since it last looked, those of one shape together."""

    def __init__(self, beside: SideThread, sizes: FittingSizes) -> None:
        self._beside, self._sizes = beside, sizes
        self._waiting: deque[FinishedLatents] = deque()
        self._changed = threading.Lock()

    def decode(self, finished: FinishedLatents) -> None:
        """Have it decoded and delivered. Its latents are there on the device."""
        with self._changed:
            self._waiting.append(finished)
        self._beside.later(self._decode_some)

    def _decode_some(self) -> None:
        batch = self._next()
        if not batch:
            return
        started = time.perf_counter()
        try:
            images = self._decoded(batch)
        except OutOfMemory:
            images = None
        except Exception as error:
            _fail(batch, error)
            return
        if images is None:
            # Out of the except block, whose traceback keeps what was computed in memory.
            self._did_not_fit(batch)
            return
        seconds = (time.perf_counter() - started) / len(batch)
        for one, image in zip(batch, images, strict=True):
            one.submission.device_seconds += seconds
            one.submission.deliver(one.index, image)

    @staticmethod
    def _decoded(batch: list[FinishedLatents]) -> list[PIL.Image.Image]:
        with within_memory():
            return batch[0].autoencoder.decode(torch.stack([one.latents for one in batch]))

    def _did_not_fit(self, batch: list[FinishedLatents]) -> None:
        """Try again with half of them. A single one is given up: decoded in tiles it would be another picture
        than the same request's at another time.
        """
        log.warning("decoding did not fit into the device's memory", extra={"pictures": len(batch)})
        if len(batch) == 1:
            _fail(batch, OutOfMemory("a picture of this size could not be decoded in the memory left now"))
            return
        self._sizes.does_not_fit(batch[0].shape, len(batch))
        with self._changed:
            self._waiting.extendleft(reversed(batch))
        self._beside.later(self._decode_some)

    def _next(self) -> list[FinishedLatents]:
        """The oldest, and those that can be decoded with it; nothing where another batch took them all."""
        with self._changed:
            wanted = [one for one in self._waiting if not one.submission.over]
            batch = wanted[:1]
            most = self._sizes.limit(batch[0].shape) if batch else 0
            for one in wanted[1:]:
                first = batch[0]
                alike = one.autoencoder is first.autoencoder and one.latents.shape == first.latents.shape
                if alike and len(batch) < most:
                    batch.append(one)
            taken = {id(one) for one in batch}
            self._waiting = deque(one for one in wanted if id(one) not in taken)
            return batch


def _fail(batch: list[FinishedLatents], error: Exception) -> None:
    for one in batch:
        one.submission.fail(error)
