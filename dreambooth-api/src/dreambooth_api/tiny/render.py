"""Draws the pictures that the tiny model learns from.

A :class:`Scene` says everything about one picture; :func:`render` turns it into pixels with nothing
but Pillow, and :func:`draw_scene` invents one at random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter

from .shapes import SHAPES, Point
from .vocabulary import COLOURS, HELD_OUT_LOOKS, OBJECTS, SCENES, TEXTURES, held_out

RGB = tuple[int, int, int]

SUPERSAMPLING = 3
DARK: RGB = (44, 40, 46)
LIGHT: RGB = (238, 236, 228)


@dataclass(frozen=True)
class Scene:
    """One picture, fully determined: rendering it twice gives the same bytes."""

    kind: str
    colour: str
    texture: str
    background: str  # a key of COLOURS or of SCENES
    x: float = 0.5  # centre, in picture widths
    y: float = 0.5
    scale: float = 0.3  # half the object's width, in picture widths
    angle: float = 0.0  # degrees
    flip: bool = False
    period: float = 0.13  # of the texture, in picture widths
    second: RGB | None = None  # the texture's other colour; None takes a tone of the first
    jitter: tuple[int, int, int] = (0, 0, 0)  # added to the object's colour
    ground: str = "plain"  # "plain", "gradient" or "floor", where the background is a colour
    seed: int = 0  # places the snow, the stars and the blades of grass

    @property
    def background_is_colour(self) -> bool:
        return self.background in COLOURS


def draw_scene(rng: random.Random, *, reserved: bool = False) -> Scene:
    """A random scene: one that training may use or, with ``reserved``, one kept from it."""
    while True:
        kind, colour = rng.choice(OBJECTS), rng.choice(tuple(COLOURS))
        texture = rng.choices(TEXTURES, weights=(4, 2, 2, 2))[0]
        in_scene = not reserved and rng.random() < 0.15
        background = rng.choice(tuple(SCENES if in_scene else COLOURS))
        if background == colour or (texture, colour) in HELD_OUT_LOOKS:
            continue
        if in_scene or held_out(kind, colour, background) == reserved:
            break
    scale = rng.uniform(0.24, 0.38)
    reach = max(0.0, 0.47 - scale)
    return Scene(
        kind=kind,
        colour=colour,
        texture=texture,
        background=background,
        x=0.5 + rng.uniform(-reach, reach),
        y=0.5 + rng.uniform(-reach, reach),
        scale=scale,
        angle=rng.uniform(-14, 14),
        flip=rng.random() < 0.5,
        period=rng.uniform(0.11, 0.17),
        jitter=(rng.randint(-9, 9), rng.randint(-9, 9), rng.randint(-9, 9)),
        ground=rng.choice(("plain", "gradient", "floor")),
        seed=rng.getrandbits(30),
    )


def render(scene: Scene, size: int = 128) -> Image.Image:
    """Paints a scene as an RGB picture of ``size`` × ``size`` pixels."""
    big = size * SUPERSAMPLING
    canvas = _background(scene, big)
    fills: dict[str, Image.Image | RGB] = {
        "body": _texture(scene, big),
        "hole": canvas.copy(),
        "dark": DARK,
        "light": LIGHT,
    }
    for role, points in SHAPES[scene.kind]:
        mask = Image.new("L", (big, big))
        ImageDraw.Draw(mask).polygon(_place(points, scene, big), fill=255)
        source = fills[role]
        canvas.paste(source, (0, 0, big, big), mask)
    return canvas.resize((size, size), Image.Resampling.BOX)


def second_tone(colour: RGB) -> RGB:
    """The texture's other colour: darker for light colours, lighter for dark ones, same hue."""
    light = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 115
    if light:
        return _mix(colour, (0, 0, 0), 0.5)
    return _mix(colour, (255, 255, 255), 0.55)


def _mix(a: RGB, b: RGB, share: float) -> RGB:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _jittered(scene: Scene) -> RGB:
    red, green, blue = (
        min(255, max(0, c + d)) for c, d in zip(COLOURS[scene.colour], scene.jitter, strict=True)
    )
    return red, green, blue


def _place(points: tuple[Point, ...], scene: Scene, big: int) -> list[Point]:
    cos, sin = math.cos(math.radians(scene.angle)), math.sin(math.radians(scene.angle))
    placed = []
    for x, y in points:
        mirrored = -x if scene.flip else x
        placed.append(
            (
                (scene.x + scene.scale * (mirrored * cos - y * sin)) * big,
                (scene.y + scene.scale * (mirrored * sin + y * cos)) * big,
            )
        )
    return placed


def _texture(scene: Scene, big: int) -> Image.Image:
    """The object's fill, over the whole canvas; the pattern moves and grows with the object."""
    first = _jittered(scene)
    fill = Image.new("RGB", (big, big), first)
    if scene.texture == "plain":
        return fill
    second = scene.second or second_tone(first)
    paint = ImageDraw.Draw(fill)
    step = scene.period * big * scene.scale / 0.28
    left, top = scene.x * big, scene.y * big
    count = int(scene.scale * 1.5 * big / step) + 2
    cells = range(-count, count + 1)
    if scene.texture == "striped":
        for i in cells:
            x = left + i * step
            paint.rectangle((x, 0, x + step / 2, big), fill=second)
    elif scene.texture == "dotted":
        radius = step * 0.27
        for i in cells:
            for j in cells:
                x, y = left + (i + 0.5 * (j % 2)) * step, top + j * step * 0.85
                paint.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
    else:
        for i in cells:
            for j in cells:
                if (i + j) % 2:
                    x, y = left + i * step * 0.8, top + j * step * 0.8
                    paint.rectangle((x, y, x + step * 0.8, y + step * 0.8), fill=second)
    return fill.rotate(-scene.angle, center=(left, top), fillcolor=first)


def _background(scene: Scene, big: int) -> Image.Image:
    if scene.background_is_colour:
        return _colour_ground(COLOURS[scene.background], scene.ground, big)
    return _PAINTERS[scene.background](random.Random(scene.seed), big)


def _gradient(top: RGB, bottom: RGB, big: int) -> Image.Image:
    column = Image.new("RGB", (1, 64))
    for y in range(64):
        column.putpixel((0, y), _mix(top, bottom, y / 63))
    return column.resize((big, big), Image.Resampling.BILINEAR)


def _colour_ground(colour: RGB, ground: str, big: int) -> Image.Image:
    if ground == "gradient":
        return _gradient(_mix(colour, (255, 255, 255), 0.16), _mix(colour, (0, 0, 0), 0.16), big)
    canvas = Image.new("RGB", (big, big), colour)
    if ground == "floor":
        floor = _mix(colour, (0, 0, 0), 0.18) if sum(colour) > 90 else (50, 50, 52)
        ImageDraw.Draw(canvas).rectangle((0, big * 0.72, big, big), fill=floor)
    return canvas


def _beach(rng: random.Random, big: int) -> Image.Image:
    canvas = _gradient((120, 195, 245), (205, 235, 250), big)
    paint = ImageDraw.Draw(canvas)
    paint.rectangle((0, big * 0.45, big, big * 0.62), fill=(35, 120, 190))
    paint.rectangle((0, big * 0.62, big, big), fill=(235, 210, 150))
    x, y, radius = rng.choice((0.15, 0.85)) * big, 0.15 * big, 0.09 * big
    paint.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 236, 120))
    return canvas


def _meadow(rng: random.Random, big: int) -> Image.Image:
    canvas = _gradient((130, 200, 250), (215, 240, 255), big)
    paint = ImageDraw.Draw(canvas)
    paint.rectangle((0, big * 0.5, big, big), fill=(105, 180, 70))
    for _ in range(26):
        x, y = rng.uniform(0, big), rng.uniform(0.55, 1) * big
        paint.line(
            (x, y, x + rng.uniform(-0.02, 0.02) * big, y - 0.06 * big), fill=(55, 125, 45), width=big // 80
        )
    return canvas


def _night(rng: random.Random, big: int) -> Image.Image:
    canvas = _gradient((10, 12, 45), (38, 42, 100), big)
    paint = ImageDraw.Draw(canvas)
    for _ in range(26):
        x, y, radius = rng.uniform(0, big), rng.uniform(0, big), rng.uniform(0.005, 0.011) * big
        paint.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 250, 215))
    x, y, radius = rng.choice((0.15, 0.85)) * big, 0.15 * big, 0.08 * big
    paint.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(245, 240, 200))
    return canvas


def _snow(rng: random.Random, big: int) -> Image.Image:
    canvas = _gradient((165, 190, 215), (205, 220, 235), big)
    paint = ImageDraw.Draw(canvas)
    paint.ellipse((-0.3 * big, 0.6 * big, 1.3 * big, 1.5 * big), fill=(250, 252, 255))
    for _ in range(34):
        x, y, radius = rng.uniform(0, big), rng.uniform(0, big), rng.uniform(0.008, 0.016) * big
        paint.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255))
    return canvas.filter(ImageFilter.GaussianBlur(big / 400))


_PAINTERS: dict[str, Callable[[random.Random, int], Image.Image]] = {
    "beach": _beach,
    "meadow": _meadow,
    "night": _night,
    "snow": _snow,
}
