"""Words for a scene: the captions that the tiny model is taught with and judged by."""

from __future__ import annotations

import random
import string

from .render import Scene
from .vocabulary import SCENES

_OPENINGS = ("", "", "a photo of ", "a picture of ", "a drawing of ", "an image of ")
_COLOUR_GROUNDS = (
    "on a {} background",
    "on a {} background",
    "with a {} background",
    "in front of a {} wall",
    "against a {} wall",
    "on {}",
)


def describe(scene: Scene, rng: random.Random) -> str:
    """A caption that names the object, its colour and its surroundings, in one of many wordings."""
    return _sentence(scene, rng, colour=True, ground=True, details=True)


def loosely_describe(scene: Scene, rng: random.Random) -> str:
    """As :func:`describe`, but at times leaves something unsaid or slips an unknown word in.

    What is left unsaid teaches that it may be anything; unknown words teach that one of them changes
    nothing by itself, which leaves it free for a subject to be learned under.
    """
    caption = _sentence(
        scene,
        rng,
        colour=rng.random() > 0.12,
        ground=rng.random() > 0.12,
        details=rng.random() > 0.5,
    )
    if rng.random() < 0.05:
        words = caption.split(" ")
        words.insert(rng.randrange(len(words)), _unknown_word(rng))
        caption = " ".join(words)
    return caption


def _sentence(scene: Scene, rng: random.Random, *, colour: bool, ground: bool, details: bool) -> str:
    adjectives = []
    if details and rng.random() < 0.5:
        adjectives += ["small"] if scene.scale < 0.275 else ["large"] if scene.scale > 0.345 else []
    if scene.texture != "plain" and colour:
        adjectives.append(scene.texture)
    if colour:
        adjectives.append(scene.colour)
    noun = " ".join([*adjectives, scene.kind])
    opening = rng.choice(_OPENINGS)
    article = "an" if noun[0] in "aeiou" else "a"
    sentence = f"{opening}{article} {noun}"
    if details and rng.random() < 0.4:
        sentence += " on the left" if scene.x < 0.42 else " on the right" if scene.x > 0.58 else ""
    if ground and scene.background_is_colour:
        wording = rng.choice(_COLOUR_GROUNDS).format(scene.background)
        sentence += " " + wording.replace("a orange", "an orange")
    elif ground:
        sentence += " " + SCENES[scene.background]
    return sentence


def _unknown_word(rng: random.Random) -> str:
    while True:
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 5)))
        if word != "sks":  # never seen in training, so that "a sks shoe" is a fair test
            return word
