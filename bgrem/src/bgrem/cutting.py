"""From a photo and its masks to its cut-out. The masks, and what refines them, are rembg's own."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from bgrem.matting import Matter, refinements
from bgrem.request import Background, CutOptions


def cut_out(
    photo: Image.Image, masks: list[Image.Image], options: CutOptions, matter: Matter | None, field: str
) -> Image.Image:
    """The mask (L), the cut-out (RGBA), or the cut-out on its background (RGB), as large as the RGB *photo*.

    Several masks give as many pictures one below the other. *matter* is for `options.solves`; raises as
    `Matter.matte`, naming *field*.
    """
    return _stack([_finish(photo, mask, options, matter, field) for mask in masks])


def _finish(
    photo: Image.Image, mask: Image.Image, options: CutOptions, matter: Matter | None, field: str
) -> Image.Image:
    if options.post_process_mask:
        mask = Image.fromarray(refinements().post_process(np.array(mask)))
    if options.only_mask:
        return mask
    if matter is not None:
        photo, mask = matter.matte(photo, mask, field)
    return _lay(photo, mask, options.background)


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
