"""rembg's alpha matting, bounded in work, and given up when nobody waits for it any more.

It is rembg's `alpha_matting_cutout` with three differences. The erosion by a square is done by rows and
columns: of 400×400 pixels by 90×90 in 0.02 s for 7 s, with the same result. The pixels to be solved for are
counted first. And the solver asks between its steps whether it should go on.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from enlight_common.errors import InvalidField
from enlight_common.queue import Canceled, Stop
from PIL import Image

from bgrem.request import Matting

#: Building the Laplacian takes 400 bytes for each pixel of the picture, and as much again while it is cut.
MAX_MATTING_PIXELS = 2_000_000
#: Of all pictures of a request together. Each takes 50 to 150 µs on one core, mostly for the preconditioner,
#: which cannot be interrupted.
MAX_UNKNOWN_PIXELS = 250_000
#: In steps of the solver; what converges does so within 50.
_MAX_STEPS = 1000

Levels = np.ndarray[Any, np.dtype[np.uint8]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def refinements() -> ModuleType:
    """rembg's module with matting and smoothing.

    Importing it compiles for up to minutes on a machine that has not done so before.
    """
    return importlib.import_module("rembg.bg")


class Matter:
    """The alpha matting of one request. numba's threads allow only one at a time to `matte`."""

    def __init__(self, matting: Matting, stop: Stop, *, most_unknown: int = MAX_UNKNOWN_PIXELS) -> None:
        self._matting = matting
        self._stop = stop
        self._most_unknown = most_unknown
        self._unknown = 0

    def matte(self, photo: Image.Image, mask: Image.Image, field: str) -> tuple[Image.Image, Image.Image]:
        """The subject's own colours, without the background that shines through its edge, and its opacity.

        Raises InvalidField(field) where too many pixels would have to be solved for, Canceled.
        """
        rembg = refinements()
        trimap = find_trimap(np.asarray(mask), self._matting)
        self._count(int((trimap == _UNKNOWN).sum()), field)
        if self._stop():
            raise Canceled
        try:
            cutout = self._solve(rembg, np.asarray(photo) / 255.0, trimap / 255.0)
        except ValueError:
            # There is nothing to solve for: no sure subject, or nothing but. rembg does the same.
            cutout = rembg.decontaminate_cutout(photo, mask)
        return cutout.convert("RGB"), cutout.getchannel("A")

    def _count(self, unknown: int, field: str) -> None:
        self._unknown += unknown
        if self._unknown > self._most_unknown:
            raise InvalidField(
                field,
                f"must leave at most {self._most_unknown} pixels of all pictures together between the "
                "thresholds for alpha_matting: send a smaller picture, or lower alpha_matting_erode_size",
            )

    def _solve(self, rembg: ModuleType, photo: Any, trimap: Any) -> Image.Image:
        options = {"callback": self._look, "maxiter": _MAX_STEPS}
        alpha = rembg.estimate_alpha_cf(photo, trimap, cg_kwargs=options)
        foreground = rembg.estimate_foreground_ml(photo, alpha)
        cutout = rembg.stack_images(foreground, alpha)
        return Image.fromarray(np.clip(cutout * 255, 0, 255).astype(np.uint8))

    def _look(self, *_: object) -> None:
        if self._stop():
            raise Canceled


#: In a trimap, between the background's 0 and the subject's 255.
_UNKNOWN = 128


def find_trimap(mask: Levels, matting: Matting) -> Levels:
    """What of a mask is sure, less a rim: 255 the subject, 0 the rest, 128 in between. (height, width)."""
    trimap = np.full(mask.shape, _UNKNOWN, dtype=np.uint8)
    trimap[_eroded(mask > matting.foreground, matting.erode, beyond=False)] = 255
    trimap[_eroded(mask < matting.background, matting.erode, beyond=True)] = 0
    return trimap


def _eroded(flags: Flags, size: int, *, beyond: bool) -> Flags:
    """Eroded by a square; what lies *beyond* the border counts as so. As `scipy.ndimage.binary_erosion`."""
    ndimage: Any = importlib.import_module("scipy.ndimage")
    if size == 0:
        # rembg passes no structure then, which is a cross of 3×3.
        return np.asarray(ndimage.binary_erosion(flags, border_value=int(beyond)))
    levels = flags.view(np.uint8)
    return np.asarray(ndimage.minimum_filter(levels, size=size, mode="constant", cval=int(beyond))).view(bool)
