"""Outlines of the dozen objects, as polygons in a square from -1 to 1 with y pointing down.

A shape is its parts in painting order. A part's role says what fills it: ``body`` takes the object's
colour and texture, the others are small fixed details that make the object easy to tell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

Point = tuple[float, float]


class Part(NamedTuple):
    role: str  # "body", "dark", "light" or "hole" (the background shows through)
    points: tuple[Point, ...]


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0, end: float = 360
) -> tuple[Point, ...]:
    steps = 28
    angles = (math.radians(start + (end - start) * i / steps) for i in range(steps + 1))
    return tuple((cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles)


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[Point, ...]:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _star() -> tuple[Point, ...]:
    return tuple(
        (radius * math.sin(math.pi * i / 5), -radius * math.cos(math.pi * i / 5) + 0.05)
        for i in range(10)
        for radius in ((1.0,) if i % 2 == 0 else (0.44,))
    )


def _heart() -> tuple[Point, ...]:
    points = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, -y / 17 - 0.08))
    return tuple(points)


SHAPES: dict[str, tuple[Part, ...]] = {
    "ball": (
        Part("body", _ellipse(0, 0, 0.9, 0.9)),
        Part("light", _ellipse(-0.34, -0.38, 0.17, 0.13)),
    ),
    "boat": (
        Part("body", ((-1, 0.3), (1, 0.3), (0.62, 0.85), (-0.62, 0.85))),
        Part("dark", _box(-0.06, -0.95, 0.04, 0.3)),
        Part("body", ((0.1, -0.9), (0.85, 0.15), (0.1, 0.15))),
        Part("body", ((-0.12, -0.7), (-0.12, 0.15), (-0.72, 0.15))),
    ),
    "bottle": (
        Part(
            "body",
            (
                (-0.17, -0.75),
                (0.17, -0.75),
                (0.17, -0.35),
                (0.46, 0.02),
                (0.46, 0.95),
                (-0.46, 0.95),
                (-0.46, 0.02),
                (-0.17, -0.35),
            ),
        ),
        Part("dark", _box(-0.21, -1.0, 0.21, -0.74)),
        Part("light", _box(-0.3, 0.15, -0.19, 0.75)),
    ),
    "car": (
        Part(
            "body",
            (
                (-1, 0.02),
                (-0.62, -0.05),
                (-0.36, -0.52),
                (0.38, -0.52),
                (0.66, -0.05),
                (1, 0.06),
                (1, 0.46),
                (-1, 0.46),
            ),
        ),
        Part("light", ((-0.46, -0.05), (-0.27, -0.4), (-0.02, -0.4), (-0.02, -0.05))),
        Part("light", ((0.08, -0.05), (0.08, -0.4), (0.31, -0.4), (0.5, -0.05))),
        Part("dark", _ellipse(-0.55, 0.46, 0.26, 0.26)),
        Part("dark", _ellipse(0.55, 0.46, 0.26, 0.26)),
        Part("light", _ellipse(-0.55, 0.46, 0.1, 0.1)),
        Part("light", _ellipse(0.55, 0.46, 0.1, 0.1)),
    ),
    "cat": (
        Part("body", ((-0.8, -0.1), (-0.78, -0.98), (-0.2, -0.55))),
        Part("body", ((0.8, -0.1), (0.78, -0.98), (0.2, -0.55))),
        Part("body", _ellipse(0, 0.15, 0.85, 0.72)),
        Part("light", _ellipse(-0.34, 0.0, 0.19, 0.17)),
        Part("light", _ellipse(0.34, 0.0, 0.19, 0.17)),
        Part("dark", _ellipse(-0.34, 0.0, 0.08, 0.14)),
        Part("dark", _ellipse(0.34, 0.0, 0.08, 0.14)),
        Part("dark", ((-0.12, 0.3), (0.12, 0.3), (0, 0.45))),
    ),
    "fish": (
        Part("body", _ellipse(-0.15, 0, 0.75, 0.5)),
        Part("body", ((0.4, 0), (0.98, -0.5), (0.86, 0), (0.98, 0.5))),
        Part("body", ((-0.3, -0.4), (0.15, -0.75), (0.3, -0.3))),
        Part("light", _ellipse(-0.5, -0.1, 0.14, 0.14)),
        Part("dark", _ellipse(-0.52, -0.1, 0.07, 0.07)),
    ),
    "hat": (
        Part("body", ((-0.52, 0.4), (-0.45, -0.75), (0.45, -0.75), (0.52, 0.4))),
        Part("body", _ellipse(0, 0.45, 1.0, 0.24)),
        Part("dark", ((-0.52, 0.3), (-0.5, 0.06), (0.5, 0.06), (0.52, 0.3))),
    ),
    "heart": (Part("body", _heart()),),
    "house": (
        Part("body", _box(-0.72, -0.15, 0.72, 0.9)),
        Part("dark", ((-0.95, -0.12), (0, -0.95), (0.95, -0.12))),
        Part("light", _box(-0.5, 0.1, -0.14, 0.44)),
        Part("dark", _box(0.14, 0.28, 0.5, 0.9)),
    ),
    "mug": (
        Part("body", _ellipse(0.55, 0.05, 0.42, 0.46)),
        Part("hole", _ellipse(0.57, 0.05, 0.22, 0.26)),
        Part("body", ((-0.75, -0.7), (0.5, -0.7), (0.44, 0.8), (-0.69, 0.8))),
        Part("dark", _ellipse(-0.125, -0.7, 0.625, 0.15)),
    ),
    "shoe": (
        Part(
            "body",
            (
                (-0.95, -0.62),
                (-0.3, -0.62),
                (-0.1, -0.22),
                (0.4, -0.02),
                (0.85, 0.1),
                (1.0, 0.38),
                (1.0, 0.5),
                (-0.98, 0.5),
            ),
        ),
        Part("light", ((-1.0, 0.48), (1.04, 0.48), (1.0, 0.7), (-1.0, 0.7))),
        Part("dark", _ellipse(-0.62, -0.62, 0.33, 0.1)),
        Part("light", ((-0.2, -0.3), (-0.1, -0.36), (0.1, -0.02), (0.0, 0.06))),
        Part("light", ((0.02, -0.2), (0.12, -0.26), (0.32, 0.06), (0.22, 0.14))),
    ),
    "star": (Part("body", _star()),),
}
