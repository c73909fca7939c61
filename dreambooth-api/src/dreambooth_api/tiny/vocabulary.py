"""The words that ``enlight/tiny-sd`` was taught, and what was kept from it.

Everything the model knows is a product of these short lists, so a held-out caption is one whose
combination of words was never drawn during training, although every word in it was.
"""

from __future__ import annotations

import hashlib

OBJECTS = (
    "ball",
    "boat",
    "bottle",
    "car",
    "cat",
    "fish",
    "hat",
    "heart",
    "house",
    "mug",
    "shoe",
    "star",
)

#: sRGB, 0 to 255. Chosen so that neighbours stay apart after a small jitter and an autoencoder's blur.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (248, 220, 50),
    "green": (45, 155, 60),
    "cyan": (70, 205, 215),
    "blue": (40, 75, 205),
    "purple": (125, 45, 165),
    "pink": (245, 145, 190),
    "brown": (115, 70, 38),
    "black": (22, 22, 24),
    "white": (246, 246, 246),
    "gray": (130, 130, 134),
}

TEXTURES = ("plain", "striped", "dotted", "checked")

#: Surroundings that are not a colour. Captions place the object "at the beach", "at night", ...
SCENES: dict[str, str] = {
    "beach": "at the beach",
    "meadow": "in a meadow",
    "night": "at night",
    "snow": "in the snow",
}

#: Looks no training picture has: a subject that wears one is new to the base model.
HELD_OUT_LOOKS = frozenset(
    {("dotted", "purple"), ("striped", "green"), ("checked", "cyan"), ("dotted", "orange")}
)

#: One in this many (object, colour, background) combinations is kept for evaluation.
HOLD_OUT_ONE_IN = 8


def held_out(kind: str, colour: str, background: str) -> bool:
    """Whether a combination is reserved for evaluation: a fixed, even-handed draw by hash."""
    digest = hashlib.sha256(f"{kind}/{colour}/{background}".encode()).digest()
    return digest[0] % HOLD_OUT_ONE_IN == 0
