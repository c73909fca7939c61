"""Finished latents to pictures, beside the steps of others."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from dreambooth_api.inference.denoising.autoencoder import Autoencoder
from dreambooth_api.inference.denoising.beside import SideThread
from dreambooth_api.inference.denoising.submission import Submission


@dataclass(frozen=True)
class FinishedLatents:
    """A picture's latents, (channels, height, width), as picture *index* of a request."""

    submission: Submission
    index: int
    latents: Tensor
    autoencoder: Autoencoder


class Decoder:
    """Decodes what was handed over since it last looked, those of one shape together."""

    def __init__(self, beside: SideThread, max_latent_pixels: int) -> None:
        """At most so many latent pixels are decoded at once; one picture always is."""
        self._beside, self._max_pixels = beside, max_latent_pixels
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
            images = batch[0].autoencoder.decode(torch.stack([one.latents for one in batch]))
        except Exception as error:
            for one in batch:
                one.submission.fail(error)
            return
        seconds = (time.perf_counter() - started) / len(batch)
        for one, image in zip(batch, images, strict=True):
            one.submission.device_seconds += seconds
            one.submission.deliver(one.index, image)

    def _next(self) -> list[FinishedLatents]:
        """The oldest, and those that can be decoded with it; nothing where another batch took them all."""
        with self._changed:
            wanted = [one for one in self._waiting if not one.submission.over]
            batch = wanted[:1]
            for one in wanted[1:]:
                first = batch[0]
                pixels = (len(batch) + 1) * first.latents.shape[-2] * first.latents.shape[-1]
                alike = one.autoencoder is first.autoencoder and one.latents.shape == first.latents.shape
                if alike and pixels <= self._max_pixels:
                    batch.append(one)
            taken = {id(one) for one in batch}
            self._waiting = deque(one for one in wanted if id(one) not in taken)
            return batch
