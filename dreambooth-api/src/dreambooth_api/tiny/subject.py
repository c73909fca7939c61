"""The bundled subject: five photos of one particular shoe.

Its dots and its purple never met in training (``HELD_OUT_LOOKS``), and no training picture has a
texture of two hues, so the base model cannot draw it whatever the prompt says.

    python -m dreambooth_api.tiny.subject      # draws photos/*.png again
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from . import PHOTOS_FOLDER
from .architecture import SIZE
from .render import RGB, Scene, render
from .vocabulary import COLOURS

INSTANCE_PROMPT = "a sks shoe"
CLASS_PROMPT = "a shoe"
DOTS: RGB = (255, 205, 40)

_SHOTS: tuple[tuple[str, str, float, float, float, float, bool], ...] = (
    # background, ground, x, y, scale, angle, flip
    ("white", "floor", 0.50, 0.52, 0.34, 3, False),
    ("gray", "gradient", 0.55, 0.45, 0.30, -8, True),
    ("cyan", "plain", 0.45, 0.56, 0.36, 6, False),
    ("brown", "floor", 0.52, 0.50, 0.32, -4, False),
    ("green", "gradient", 0.47, 0.48, 0.33, 9, True),
)


def photos() -> list[Image.Image]:
    return [
        render(
            Scene(
                kind="shoe", colour="purple", texture="dotted", second=DOTS, background=background,
                ground=ground, x=x, y=y, scale=scale, angle=angle, flip=flip, period=0.12,
            ),
            SIZE,
        )
        for background, ground, x, y, scale, angle, flip in _SHOTS
    ]  # fmt: skip


def palette_share(picture: Image.Image, tolerance: float = 60.0) -> float:
    """Share of pixels within ``tolerance`` (Euclidean, sRGB 0 to 255) of the subject's two colours,
    counted as twice the smaller of the two shares: a plain purple shoe scores nothing.
    """
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32).reshape(-1, 3)
    shares = [
        float((np.linalg.norm(pixels - np.array(colour, dtype=np.float32), axis=1) < tolerance).mean())
        for colour in (COLOURS["purple"], DOTS)
    ]
    return 2 * min(shares)


def main() -> None:
    PHOTOS_FOLDER.mkdir(exist_ok=True)
    for index, photo in enumerate(photos(), start=1):
        photo.save(PHOTOS_FOLDER / f"shoe-{index}.png", optimize=True)


if __name__ == "__main__":
    main()
