"""What pictures look like that are not done yet, beside the steps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreambooth_api.inference.denoising.autoencoder import Autoencoder
from dreambooth_api.inference.denoising.beside import SideThread
from dreambooth_api.inference.denoising.submission import Shown
from dreambooth_api.inference.denoising.underway import PictureUnderWay

log = logging.getLogger(__name__)

#: Latents of a preview's longer side: 256 pixels, for a sixteenth of what an SDXL picture's decoding takes.
_SIDE = 32


@dataclass(frozen=True)
class _Wanted:
    picture: PictureUnderWay
    step: int
    x0: Tensor
    #: Makes the present stream wait until *x0* is there.
    await_x0: Callable[[], None]


class Previews:
    """Decodes what the model takes for the finished latents, scaled down: by the picture's own VAE, because a
    map from latents to colours would have to be known for each.

    A picture whose last preview still waits has only the newer one made.
    """

    def __init__(self, beside: SideThread, autoencoder: Autoencoder) -> None:
        self._beside, self._autoencoder = beside, autoencoder
        self._wanted: dict[PictureUnderWay, _Wanted] = {}
        self._changed = threading.Lock()

    def show(self, pictures: Sequence[PictureUnderWay], await_x0: Callable[[], None]) -> None:
        """Have these shown to whoever waits for them, as they are now."""
        for picture in pictures:
            with self._changed:
                known = picture in self._wanted
                wanted = _Wanted(picture, picture.position, picture.previous_x0, await_x0)
                self._wanted[picture] = wanted
            if not known:
                self._beside.last(lambda picture=picture: self._show(picture))  # type: ignore[misc]

    def _show(self, picture: PictureUnderWay) -> None:
        with self._changed:
            wanted = self._wanted.pop(picture)
        if picture.submission.over:
            return
        try:
            wanted.await_x0()
            (image,) = self._autoencoder.decode(_small(wanted.x0))
        except Exception:
            # Nobody's picture is lost with it: that is decoded when it is done.
            log.warning("a preview could not be made", exc_info=True)
            return
        picture.submission.show(Shown(picture.index, image, wanted.step))


def _small(latents: Tensor) -> Tensor:
    """(channels, height, width) as one of a batch, scaled down where it is large."""
    if latents.device.type == "cuda":
        latents.record_stream(torch.cuda.current_stream(latents.device))
    height, width = latents.shape[-2:]
    scale = max(height, width) / _SIDE
    batch = latents[None]
    if scale <= 1:
        return batch
    return F.interpolate(batch, (max(1, round(height / scale)), max(1, round(width / scale))), mode="area")
