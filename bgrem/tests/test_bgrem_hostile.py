"""What a stranger may send: refused with a 4xx that names the field."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from bgrem_parts import astronaut
from flask.testing import FlaskClient
from picture_parts import in_base64
from PIL import Image

PHOTO = in_base64(astronaut())
BODY: dict[str, Any] = {"input_image": PHOTO}


def claiming_png(width: int, height: int) -> str:
    """A PNG of few bytes whose header claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(data).decode()


def broken_tail() -> str:
    buffer = io.BytesIO()
    astronaut().save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()[:-1500]).decode()


def endless_png() -> str:
    buffer = io.BytesIO()
    frames = [Image.new("L", (16, 16), number % 256) for number in range(400)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return base64.b64encode(buffer.getvalue()).decode()


IMAGES = {
    "broken base64": "!!!not base64!!!",
    "base64 cut short": PHOTO[:-3],
    "not an image": base64.b64encode(b"once upon a time").decode(),
    "half an image": base64.b64encode(base64.b64decode(PHOTO)[: len(PHOTO) // 3]).decode(),
    "an empty string": "",
    "a JPEG with a broken tail": broken_tail(),
    "one pixel": in_base64(Image.new("RGB", (1, 1))),
    "1×20,000 pixels": in_base64(Image.new("RGB", (1, 20_000))),
    "a claim of 300 megapixels": claiming_png(20_000, 15_000),
    "an animation of hundreds of frames": endless_png(),
}

FIELDS: dict[str, tuple[str, Any]] = {
    "an unknown key": ("colour", "red"),
    "a model from a path": ("model", "../../x"),
    "a model nobody knows": ("model", "u3net"),
    "a model that sends pictures away": ("model", "withoutbg"),
    "a number for a model": ("model", 7),
    "a background of letters": ("background", "#gggggg"),
    "a short colour": ("background", "#fff"),
    "a background that is no picture": ("background", "white"),
    "a background of nothing": ("background", ""),
    "a threshold beyond": ("alpha_matting_foreground_threshold", 256),
    "a negative threshold": ("alpha_matting_background_threshold", -1),
    "an erosion beyond": ("alpha_matting_erode_size", 10**9),
    "a boolean for a number": ("alpha_matting_erode_size", True),
    "a number that is none": ("alpha_matting_erode_size", "nan"),
    "a format of another kind": ("format", "bmp"),
    "a precision of another kind": ("precision", "int4"),
    "a precision of a GPU": ("precision", "fp16"),
    "a list for a picture": ("input_image", [PHOTO]),
    "both": ("input_images", [PHOTO]),
}


def refused(client: FlaskClient, body: Any, field: str | None = None) -> dict[str, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/remove", data=data, content_type="application/json")
    problem: dict[str, Any] = answer.get_json(force=True)
    assert 400 <= answer.status_code < 500, problem
    assert answer.mimetype == "application/problem+json"
    assert problem["message"]
    if field is not None:
        assert problem["field"].partition("[")[0] == field
    assert len(answer.data) < 5000, "an error does not echo what was sent"
    return problem


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_refused_that_is(client: FlaskClient, name: str) -> None:
    refused(client, {"input_image": IMAGES[name]}, "input_image")
    problem = refused(client, {"input_images": [PHOTO, IMAGES[name]]}, "input_images")
    assert problem["field"] == "input_images[1]"


@pytest.mark.parametrize("name", FIELDS)
def test_a_request_is_refused_for(client: FlaskClient, name: str) -> None:
    field, value = FIELDS[name]
    refused(client, BODY | {field: value}, field)


@pytest.mark.parametrize("body", [b"[]", b"null", b"", b"{", b"[" * 20_000, b"\xff\xfe{}"])
def test_what_is_no_json_object_is_a_400(client: FlaskClient, body: bytes) -> None:
    assert refused(client, body)["status"] == 400


def test_no_picture_is_refused(client: FlaskClient) -> None:
    refused(client, {}, "input_image")
    refused(client, {"input_images": []}, "input_images")
    refused(client, {"input_images": [PHOTO] * 17}, "input_images")


def test_a_body_over_the_limit_is_a_413(client: FlaskClient) -> None:
    assert refused(client, b'{"input_image": "' + b"x" * (9 << 20) + b'"}')["status"] == 413


def test_thresholds_the_wrong_way_round_are_refused(client: FlaskClient) -> None:
    body = BODY | {
        "alpha_matting": True,
        "alpha_matting_foreground_threshold": 10,
        "alpha_matting_background_threshold": 10,
    }
    refused(client, body, "alpha_matting_background_threshold")


def test_matting_of_a_large_picture_is_refused(client: FlaskClient) -> None:
    large = in_base64(Image.new("RGB", (2000, 1001)))
    refused(client, {"input_image": large, "alpha_matting": True}, "input_image")


def test_matting_of_pictures_that_are_large_together_is_refused(client: FlaskClient) -> None:
    half = in_base64(Image.new("RGB", (1000, 1001)))
    refused(client, {"input_images": [half, half], "alpha_matting": True}, "input_images")


def test_a_model_that_the_operator_has_to_put_there_is_refused_with_its_file(client: FlaskClient) -> None:
    for name in ("u2net_custom", "birefnet-general-fp16"):
        problem = refused(client, BODY | {"model": name}, "model")
        assert f"rembg/{name}.onnx" in problem["detail"]
