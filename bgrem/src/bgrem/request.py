"""What is asked for, once it is parsed."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from bgrem.models import Model
from bgrem.runtimes import Precision

#: A colour (red, green, blue), a picture to lay the cut-out on, or None for transparency.
Background = tuple[int, int, int] | Image.Image | None


@dataclass(frozen=True)
class Matting:
    """Settings of rembg's alpha matting. Above `foreground` a mask is sure of the subject, below `background`
    (both of 255) sure of the rest; `erode` is in pixels, and what lies between is solved for.
    """

    foreground: int = 240
    background: int = 10
    erode: int = 10


@dataclass(frozen=True)
class CutOptions:
    """How every picture of a request is cut out."""

    model: Model
    precision: Precision
    background: Background = None
    matting: Matting | None = None
    only_mask: bool = False
    post_process_mask: bool = False
