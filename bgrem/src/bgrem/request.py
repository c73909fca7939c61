"""What is asked for, once it is parsed."""

from __future__ import annotations

from dataclasses import dataclass

from enlight_common.errors import InvalidField
from enlight_common.images import MAX_SIDES, OutputFormat
from PIL import Image

from bgrem.models import Model
from bgrem.runtimes import Wanted

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
    precision: Wanted = "auto"
    background: Background = None
    matting: Matting | None = None
    only_mask: bool = False
    post_process_mask: bool = False

    @property
    def solves(self) -> bool:
        """Whether alpha matting has anything to do; a mask alone is answered as the network gives it."""
        return self.matting is not None and not self.only_mask

    @property
    def refines(self) -> bool:
        """Whether masks are worked on by what rembg compiles before it can be used."""
        return self.solves or self.post_process_mask

    def check_sides(self, photo: Image.Image, field: str, picture_format: OutputFormat) -> None:
        """Raise InvalidField(field) where the answer would be wider or higher than its format can be.

        Several masks give an answer as many times as high.
        """
        most, masks = MAX_SIDES[picture_format], self.model.masks
        if photo.width > most or photo.height * masks > most:
            highest = f", and {most // masks} high with this model" if masks > 1 else " and high"
            raise InvalidField(field, f"must be at most {most} pixels wide{highest} for {picture_format}")
