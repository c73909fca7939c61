"""What clients get for what they send."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from bgrem_parts import astronaut
from flask import Flask
from flask.testing import FlaskClient
from picture_parts import difference, from_base64, in_base64
from PIL import Image


def cut(client: FlaskClient, image: Image.Image | str, path: str = "/remove", **options: Any) -> Image.Image:
    text = image if isinstance(image, str) else in_base64(image)
    answer = client.post(path, json={"input_image": text, **options})
    assert answer.status_code == 200, answer.get_json()
    return from_base64(answer.get_json()["output_image"])


@pytest.fixture(scope="module")
def plain(bgrem_app: Flask) -> Image.Image:
    """The small photo on white."""
    return cut(bgrem_app.test_client(), astronaut())


@pytest.fixture(scope="module")
def mask(bgrem_app: Flask) -> Image.Image:
    return cut(bgrem_app.test_client(), astronaut(), only_mask=True)


@pytest.fixture(scope="module")
def clear(bgrem_app: Flask) -> Image.Image:
    """The small photo cut out, with an alpha channel."""
    return cut(bgrem_app.test_client(), astronaut(), "/remove-opacity")


def test_the_background_becomes_white(plain: Image.Image, mask: Image.Image) -> None:
    picture = plain
    assert (picture.mode, picture.size, picture.format) == ("RGB", (160, 160), "PNG")
    assert picture.getpixel((2, 158)) != (255, 255, 255)  # her suit
    away = np.asarray(mask) == 0
    assert away.mean() > 0.2
    assert (np.asarray(picture)[away] == 255).all()


def test_the_cut_out_has_an_alpha_channel_that_is_the_mask(clear: Image.Image, mask: Image.Image) -> None:
    picture = clear
    assert picture.mode == "RGBA"
    assert difference(picture.getchannel("A"), mask) == 0
    pixels, seen = np.asarray(picture), np.asarray(mask) > 0
    assert (pixels[~seen][:, :3] == 0).all(), "nothing of what was removed is in the file"
    assert (pixels[seen][:, :3] == np.asarray(astronaut())[seen]).all()


def test_white_is_the_cut_out_laid_on_white(plain: Image.Image, clear: Image.Image) -> None:
    on_white = Image.new("RGBA", (160, 160), "white")
    on_white.alpha_composite(clear)
    assert difference(plain, on_white.convert("RGB")) <= 1


@pytest.mark.parametrize("path", ["/remove", "/remove-opacity"])
def test_a_background_can_be_a_colour(client: FlaskClient, mask: Image.Image, path: str) -> None:
    picture = cut(client, astronaut(), path, background="#10f0a0")
    away = np.asarray(mask) == 0
    assert picture.mode == "RGB"
    assert (np.asarray(picture)[away] == (0x10, 0xF0, 0xA0)).all()


def test_a_background_can_be_transparent(client: FlaskClient, clear: Image.Image) -> None:
    picture = cut(client, astronaut(), background="transparent")
    assert difference(picture, clear) == 0


def test_a_background_can_be_a_picture(client: FlaskClient, mask: Image.Image) -> None:
    stripes = Image.new("RGB", (400, 90), "red")
    stripes.paste("blue", (200, 0, 400, 90))
    picture = cut(client, astronaut(), background=in_base64(stripes))
    away = np.asarray(mask) == 0
    found = {tuple(map(int, pixel)) for pixel in np.asarray(picture)[away]}
    assert {(255, 0, 0), (0, 0, 255)} <= found
    assert picture.size == (160, 160)


def test_several_pictures_come_back_in_their_order(client: FlaskClient) -> None:
    small = astronaut().resize((80, 64))
    answer = client.post("/remove", json={"input_images": [in_base64(astronaut()), in_base64(small)]})
    body = answer.get_json()
    assert "output_image" not in body
    sizes = [from_base64(text).size for text in body["output_images"]]
    assert sizes == [(160, 160), (80, 64)]


def test_an_answer_says_what_was_used(client: FlaskClient) -> None:
    body = {"input_image": in_base64(astronaut()), "precision": "fp32", "format": "webp"}
    answer = client.post("/remove-opacity", json=body).get_json()
    assert (answer["model"], answer["precision"], answer["format"]) == ("u2netp", "fp32", "webp")
    picture = from_base64(answer["output_image"])
    assert (picture.format, picture.mode) == ("WEBP", "RGBA")


def test_a_photo_taken_sideways_comes_back_upright(client: FlaskClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    lying = astronaut().crop((0, 0, 160, 120)).transpose(Image.Transpose.ROTATE_90)
    picture = cut(client, in_base64(lying, "PNG", exif=exif))
    assert difference(picture, cut(client, astronaut().crop((0, 0, 160, 120)))) == 0


def sixteen_bit() -> Image.Image:
    grey = np.asarray(astronaut().convert("L"), dtype=np.uint16) * 257
    return Image.fromarray(grey)


MODES: dict[str, tuple[Image.Image, str]] = {
    "CMYK": (astronaut().convert("CMYK"), "JPEG"),
    "palette": (astronaut().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "16 bit": (sixteen_bit(), "PNG"),
    "grey": (astronaut().convert("L"), "PNG"),
    "grey with alpha": (astronaut().convert("LA"), "PNG"),
    "black and white": (astronaut().convert("1"), "PNG"),
    "alpha": (astronaut().convert("RGBA"), "WEBP"),
    "a frame of a GIF": (astronaut().convert("P", palette=Image.Palette.ADAPTIVE), "GIF"),
}


@pytest.mark.parametrize("name", MODES)
def test_a_picture_may_be_in(client: FlaskClient, name: str) -> None:
    image, image_format = MODES[name]
    picture = cut(client, in_base64(image, image_format))
    assert (picture.mode, picture.size) == ("RGB", (160, 160))
    ground = np.asarray(picture).reshape(-1, 3)
    assert 0.1 < (ground == 255).all(axis=1).mean() < 0.95


def test_the_first_frame_of_an_animated_png_is_cut_out(client: FlaskClient, plain: Image.Image) -> None:
    buffer = io.BytesIO()
    others = [Image.new("RGB", (160, 160), colour) for colour in ("red", "blue")]
    astronaut().save(buffer, "PNG", save_all=True, append_images=others)
    picture = cut(client, base64.b64encode(buffer.getvalue()).decode())
    assert difference(picture, plain) == 0


def test_a_one_coloured_picture_is_answered(client: FlaskClient) -> None:
    picture = cut(client, Image.new("RGB", (64, 64), "black"), "/remove-opacity")
    assert picture.size == (64, 64)


def test_the_api_is_described(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    assert {"/remove", "/remove-opacity", "/models"} <= set(document["paths"])
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    metrics = client.get("/metrics").text
    assert "models_loaded" in metrics
    assert "inferences_total" in metrics
