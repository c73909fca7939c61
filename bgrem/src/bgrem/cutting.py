"""From a photo to its cut-out. The masks, and what refines them, are rembg's own."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
from enlight_common.errors import Unavailable
from PIL import Image, ImageOps

from bgrem.request import Background, CutOptions, Matting

_IMPORTING_RETRY_S = 10.0


def warm_refinements() -> None:
    """Import rembg's matting, which compiles for up to minutes on a machine that has not done so before."""
    importlib.import_module("rembg.bg")


def _refinements() -> ModuleType:
    module = sys.modules.get("rembg.bg")
    # An import that goes on in another thread has put a half-made module there.
    if module is None or getattr(module.__spec__, "_initializing", False):
        detail = "alpha matting and mask post-processing are still being compiled"
        raise Unavailable(detail, retry_after=_IMPORTING_RETRY_S)
    return module


def check_refinements(options: CutOptions) -> None:
    """Raise Unavailable where *options* need what `warm_refinements` has not imported yet."""
    if options.matting is not None or options.post_process_mask:
        _refinements()


def cut_out(photo: Image.Image, session: Any, options: CutOptions) -> Image.Image:
    """The mask (L), the cut-out (RGBA), or the cut-out on its background (RGB), as large as the RGB *photo*.

    A model that finds several things, as `u2net_cloth_seg` does, gives as many pictures one below the other.
    """
    masks = session.predict(photo)
    return _stack([_finish(photo, mask, options) for mask in masks])


def _finish(photo: Image.Image, mask: Image.Image, options: CutOptions) -> Image.Image:
    if options.post_process_mask:
        mask = Image.fromarray(_refinements().post_process(np.array(mask)))
    if options.only_mask:
        return mask
    if options.matting is not None:
        photo, mask = _matted(photo, mask, options.matting)
    return _lay(photo, mask, options.background)


def _matted(photo: Image.Image, mask: Image.Image, matting: Matting) -> tuple[Image.Image, Image.Image]:
    """The subject's own colours, without the background that shines through its edge, and its opacity."""
    rembg = _refinements()
    try:
        cutout = rembg.alpha_matting_cutout(
            photo, mask, matting.foreground, matting.background, matting.erode
        )
    except ValueError:
        # There is nothing to solve for: no sure subject, or nothing but. rembg does the same.
        cutout = rembg.decontaminate_cutout(photo, mask)
    return cutout.convert("RGB"), cutout.getchannel("A")


def _lay(photo: Image.Image, mask: Image.Image, background: Background) -> Image.Image:
    if background is None:
        # What is invisible is black, which makes files small and hides what was removed.
        cutout = Image.composite(photo, Image.new("RGB", photo.size), mask.point(_SEEN))
        cutout.putalpha(mask)
        return cutout
    if isinstance(background, Image.Image):
        ground = ImageOps.fit(background, photo.size, Image.Resampling.LANCZOS)
    else:
        ground = Image.new("RGB", photo.size, background)
    return Image.composite(photo, ground, mask)


#: Of a mask: 255 wherever anything is to be seen.
_SEEN = [0] + [255] * 255


def _stack(pictures: list[Image.Image]) -> Image.Image:
    if len(pictures) == 1:
        return pictures[0]
    first = pictures[0]
    stacked = Image.new(first.mode, (first.width, sum(picture.height for picture in pictures)))
    top = 0
    for picture in pictures:
        stacked.paste(picture, (0, top))
        top += picture.height
    return stacked
