"""Rows of labelled pictures on one sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 16
TITLE_HEIGHT = 34
LABEL_HEIGHT = 38  # two lines
LABEL_PIXELS = 6.4  # that a letter of a label takes, on average
PAPER = (250, 250, 248)
INK = (30, 30, 34)

Row = tuple[str, Sequence[tuple[str, Image.Image]]]


def contact_sheet(rows: Sequence[Row], side: int = 192) -> Image.Image:
    """One sheet, a title over each row, a label under each picture; their longer sides have *side* pixels."""
    columns = max(len(pictures) for _, pictures in rows)
    row_height = TITLE_HEIGHT + side + LABEL_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, len(rows) * row_height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    title_font, label_font = ImageFont.load_default(20), ImageFont.load_default(12)
    for index, (title, pictures) in enumerate(rows):
        top = GAP + index * row_height
        pen.text((GAP, top), title, fill=INK, font=title_font)
        for column, (label, picture) in enumerate(pictures):
            left = GAP + column * (side + GAP)
            shown = picture.convert("RGB")
            scale = side / max(shown.size)
            size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
            shown = shown.resize(size, Image.Resampling.LANCZOS)
            sheet.paste(shown, (left, top + TITLE_HEIGHT))
            text = textwrap.fill(label, int(side / LABEL_PIXELS), max_lines=2, placeholder=" …")
            pen.text((left, top + TITLE_HEIGHT + side + 4), text, fill=INK, font=label_font)
    return sheet
