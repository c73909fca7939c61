"""What a stranger may send: refused with a 4xx that names the field, and nothing is left behind."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dreambooth_api.service import Service
from flask.testing import FlaskClient
from PIL import Image
from service_parts import in_base64, photo, publish_adapter

PHOTO = in_base64(photo())
TRAIN = {"INSTANCE_PROMPT": "a sks shoe", "OUTPUT_DIR": "shoe", "IMAGE_LIST": [PHOTO]}
DRAW = {"prompt": "a shoe", "num_image": 1}


def huge_png() -> str:
    """20,000×20,000 pixels of grey in some 400 KB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_001) * 20_000, 9)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def endless_gif() -> str:
    """Frames by the thousand."""
    frames = [Image.new("L", (16, 16), number % 256) for number in range(2000)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with Image.open(buffer) as gif:
        assert gif.n_frames == len(frames)  # type: ignore[attr-defined]
    return base64.b64encode(buffer.getvalue()).decode()


IMAGES = {
    "broken base64": "!!!not base64!!!",
    "base64 cut short": PHOTO[:-3],
    "not an image": base64.b64encode(b"once upon a time").decode(),
    "half an image": base64.b64encode(base64.b64decode(PHOTO)[: len(PHOTO) // 3]).decode(),
    "an empty string": "",
}

#: name: (key, value) that spoils a training request; the answer names the key.
TRAIN_FIELDS: dict[str, tuple[str, Any]] = {
    "10,000 images": ("IMAGE_LIST", [PHOTO[:100]] * 10_000),
    "an empty list": ("IMAGE_LIST", []),
    "a list that is none": ("IMAGE_LIST", PHOTO),
    "a number for an image": ("IMAGE_LIST", [7]),
    "an unknown key": ("MAX_TRAIN_STEPS", 5),
    "a key in small letters": ("instance_prompt", "a sks shoe"),
    "a wrong type": ("MAX_TRAINING_STEPS", {"steps": 5}),
    "a boolean for a number": ("MAX_TRAINING_STEPS", True),
    "0 steps": ("MAX_TRAINING_STEPS", 0),
    "10^9 steps": ("MAX_TRAINING_STEPS", 10**9),
    "half a step": ("MAX_TRAINING_STEPS", 1.5),
    "a rate as text": ("LR", "fast"),
    "a rate of nan as text": ("LR", "nan"),
    "a negative rate": ("LR", -1e-4),
    "a method of another kind": ("METHOD", "hypernetwork"),
    "a folder above": ("OUTPUT_DIR", "../x"),
    "a folder of the system": ("OUTPUT_DIR", "/etc/x"),
    "a hidden folder": ("OUTPUT_DIR", ".x"),
    "no name": ("OUTPUT_DIR", ""),
    "a name with a line end": ("OUTPUT_DIR", "x\n"),
    "a name of 4 KB": ("OUTPUT_DIR", "x" * 4096),
    "a name with NUL": ("OUTPUT_DIR", "x\0y"),
    "a prompt of 1 MB": ("INSTANCE_PROMPT", "x" * 1_000_000),
    "an empty prompt": ("INSTANCE_PROMPT", ""),
    "a lone surrogate": ("INSTANCE_PROMPT", "\ud800"),
    "captions that do not match": ("CAPTION_LIST", ["one", "two"]),
    "an unsupported base": ("MODEL_NAME", "someone/unheard-of"),
    "a base from a path": ("MODEL_NAME", "../../etc"),
    "a base from a url": ("MODEL_NAME", "https://example.com/model"),
    "a resolution in between": ("RESOLUTION", 100),
    "a port beyond": ("MAIN_PROCESS_PORT", 70_000),
}

DRAW_FIELDS: dict[str, tuple[str, Any]] = {
    "an unknown key": ("steps", 5),
    "an empty prompt": ("prompt", ""),
    "a prompt of 4,001 characters": ("prompt", "x" * 4001),
    "a prompt of 1 MB": ("prompt", "x" * 1_000_000),
    "a lone surrogate": ("prompt", "\udfff"),
    "NUL in a prompt": ("negative_prompt", "a\0b"),
    "a list for a prompt": ("prompt", ["a shoe"]),
    "no pictures": ("num_image", 0),
    "17 pictures": ("num_image", 17),
    "0 steps": ("num_inference_steps", 0),
    "10^9 steps": ("num_inference_steps", 10**9),
    "guidance beyond": ("guidance_scale", 31),
    "negative guidance": ("guidance_scale", -1),
    "a negative seed": ("seed", -1),
    "a seed beyond": ("seed", 2**63),
    "a seed of 400 digits": ("seed", 10**400),
    "an odd width": ("width", 100),
    "a width of nothing": ("width", 0),
    "a size beyond the base's": ("size", 1024),
    "an unknown sampler": ("scheduler", "dpm+++"),
    "an unknown format": ("format", "bmp"),
    "a weight beyond": ("lora_scale", 2.5),
    "no models": ("models", []),
    "five models": ("models", [{"model_id": f"m{number}"} for number in range(5)]),
    "a model twice": ("models", [{"model_id": "foreign"}, {"model_id": "foreign"}]),
    "a model from a path": ("model_id", "../../etc/passwd"),
    "a mask without an image": ("mask", PHOTO),
    "a strength without an image": ("strength", 0.5),
}


@pytest.fixture(scope="module", autouse=True)
def foreign(service: Service) -> None:
    publish_adapter(service.store, "foreign", seed=1, base="another/base")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(service: Service) -> Iterator[None]:
    before = _tree(service.settings.data_dir)
    yield
    assert _tree(service.settings.data_dir) == before
    assert service.trainings.active is None
    assert not service.drawings.busy


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(client: FlaskClient, route: str, body: Any, field: str | None = None) -> dict[str, Any]:
    """The problem that *body*, as JSON or as it is, gets from *route*."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(route, data=data, content_type="application/json")
    problem: dict[str, Any] = answer.get_json(force=True)
    assert 400 <= answer.status_code < 500, problem
    assert answer.mimetype == "application/problem+json"
    assert problem["status"] == answer.status_code
    assert problem["message"]
    if field is not None:
        assert problem["field"].partition("[")[0] == field
        assert field in problem["detail"]
    assert len(answer.data) < 5000, "an error does not echo what was sent"
    return problem


@pytest.mark.parametrize("name", TRAIN_FIELDS)
def test_a_training_is_refused_for(client: FlaskClient, name: str) -> None:
    field, value = TRAIN_FIELDS[name]
    refused(client, "/train", TRAIN | {field: value}, field)


@pytest.mark.parametrize("name", DRAW_FIELDS)
def test_a_drawing_is_refused_for(client: FlaskClient, name: str) -> None:
    field, value = DRAW_FIELDS[name]
    refused(client, "/inference", DRAW | {field: value}, field)


@pytest.mark.parametrize("name", IMAGES)
def test_a_photo_is_refused_that_is(client: FlaskClient, name: str) -> None:
    problem = refused(client, "/train", TRAIN | {"IMAGE_LIST": [PHOTO, IMAGES[name]]}, "IMAGE_LIST")
    assert problem["field"] == "IMAGE_LIST[1]"
    refused(client, "/inference", DRAW | {"image": IMAGES[name]}, "image")


def test_a_picture_of_400_megapixels_in_a_small_file_is_refused(client: FlaskClient) -> None:
    bomb = huge_png()
    assert len(bomb) < 700_000
    refused(client, "/train", TRAIN | {"IMAGE_LIST": [bomb]}, "IMAGE_LIST")
    refused(client, "/inference", DRAW | {"image": bomb}, "image")


def test_thousands_of_frames_are_refused(client: FlaskClient) -> None:
    gif = endless_gif()
    refused(client, "/train", TRAIN | {"IMAGE_LIST": [gif]}, "IMAGE_LIST")
    refused(client, "/inference", DRAW | {"image": gif}, "image")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e309"])
def test_numbers_that_are_none_are_refused(client: FlaskClient, number: str) -> None:
    train = json.dumps(TRAIN | {"LR": 0.5}).replace("0.5", number).encode()
    refused(client, "/train", train)
    draw = json.dumps(DRAW | {"guidance_scale": 0.5}).replace("0.5", number).encode()
    refused(client, "/inference", draw)


@pytest.mark.parametrize("route", ["/train", "/inference"])
@pytest.mark.parametrize(
    "body", [b"[]", b'"prompt"', b"null", b"", b"{", b"[" * 20_000, b'{"a":' * 20_000, b"\xff\xfe{}"]
)
def test_what_is_no_json_object_is_a_400(client: FlaskClient, route: str, body: bytes) -> None:
    assert refused(client, route, body)["status"] == 400


@pytest.mark.parametrize("route", ["/train", "/inference"])
def test_a_body_over_the_limit_is_a_413(client: FlaskClient, service: Service, route: str) -> None:
    body = b'{"prompt": "' + b"x" * service.settings.max_body_bytes + b'"}'
    assert refused(client, route, body)["status"] == 413


@pytest.mark.parametrize("missing", ["INSTANCE_PROMPT", "OUTPUT_DIR", "IMAGE_LIST"])
def test_a_training_needs(client: FlaskClient, missing: str) -> None:
    refused(client, "/train", {key: value for key, value in TRAIN.items() if key != missing}, missing)


def test_an_unknown_model_is_a_404(client: FlaskClient) -> None:
    problem = refused(client, "/inference", DRAW | {"model_id": "nobody"})
    assert (problem["status"], problem["type"]) == (404, "/problems/unknown-model")


def test_an_adapter_of_another_base_is_a_422(client: FlaskClient) -> None:
    problem = refused(client, "/inference", DRAW | {"model_id": "foreign"}, "model_id")
    assert problem["type"] == "/problems/wrong-base-model"


def test_an_unknown_sampler_is_told_which_there_are(client: FlaskClient) -> None:
    problem = refused(client, "/inference", DRAW | {"scheduler": "dpm+++"}, "scheduler")
    assert "euler_a" in problem["detail"]
    assert "EulerDiscreteScheduler" in problem["detail"]


def test_a_seed_that_runs_over_with_its_pictures_is_refused(client: FlaskClient) -> None:
    refused(client, "/inference", DRAW | {"seed": 2**63 - 2, "num_image": 3}, "seed")


def test_class_images_need_a_class(client: FlaskClient) -> None:
    refused(client, "/train", TRAIN | {"NUM_CLASS_IMAGES": 5}, "CLASS_PROMPT")


def test_a_mask_of_another_size_is_refused(client: FlaskClient) -> None:
    refused(client, "/inference", DRAW | {"image": PHOTO, "mask": in_base64(photo(side=32))}, "mask")


@pytest.mark.parametrize("run_id", ["cpu0-zzz", "..%2F..%2Fetc", "cpu0-" + "0" * 24, "x" * 5000])
def test_a_run_that_never_was_is_a_404(client: FlaskClient, run_id: str) -> None:
    assert client.get(f"/train/{run_id}").status_code == 404
    assert client.get(f"/train/{run_id}/events").status_code == 404
    assert client.delete(f"/train/{run_id}").status_code == 404


@pytest.mark.parametrize("model_id", ["nobody", "..", "a%2Fb", "x" * 5000])
def test_what_is_no_model_cannot_be_deleted(client: FlaskClient, model_id: str) -> None:
    assert 400 <= client.delete(f"/models/{model_id}").status_code < 500
