"""``POST /upsampler`` on the app: the kept shape, what was added, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from flask.testing import FlaskClient
from picture_parts import difference, from_base64, in_base64
from PIL import Image
from running_process import until
from upsampler.app import create_app
from upsampler.enlarging import enlarge, work_of
from upsampler.models import TINY, EngineName
from upsampler.request import Manner
from upsampler.service import Service
from upsampler_parts import photo

KEPT = {"image": in_base64(photo(64, 16)), "prompt": "a cat", "resolution": 1024, "mblimit": "false"}
PHOTO = KEPT["image"]


def post(client: FlaskClient, **changed: Any) -> dict[str, Any]:
    answer = client.post("/upsampler", json=KEPT | changed)
    assert answer.status_code == 200, answer.get_data(as_text=True)[:500]
    body: dict[str, Any] = answer.get_json()
    return body


def test_hello_says_who_answers(upsampler_client: FlaskClient) -> None:
    hello = upsampler_client.get("/").get_json()
    assert hello["hostname"] == socket.gethostname()
    assert hello["message"]


def test_the_kept_call_enlarges_to_its_resolution(upsampler_client: FlaskClient) -> None:
    answer = post(upsampler_client)
    assert answer["status"] == "true"
    picture = from_base64(answer["image"])
    assert (picture.format, picture.size) == ("PNG", (1024, 256))
    assert (answer["engine"], answer["model"], answer["passes"]) == ("sd", TINY, 2)
    reduced = picture.resize((64, 16), Image.Resampling.BOX)
    mean = sum(abs(a - b) for a, b in zip(reduced.tobytes(), photo(64, 16).tobytes(), strict=True)) / 3072
    assert mean < 12, "it is the same picture"


def test_the_same_seed_gives_the_same_picture(upsampler_client: FlaskClient) -> None:
    one = {
        "noise_level": 50,
        "num_inference_steps": 1,
        "resolution": 1024,
        "image": in_base64(photo(350, 16)),
    }
    first = post(upsampler_client, **one, seed=3)
    assert first["settings"] | {"seed": 3, "steps": 1, "noise_level": 50} == first["settings"]
    again = post(upsampler_client, **one, seed=first["settings"]["seed"])
    assert again["image"] == first["image"]


def test_a_larger_picture_is_only_reduced(upsampler_client: FlaskClient) -> None:
    answer = post(upsampler_client, image=in_base64(photo(1200, 600)))
    assert (answer["width"], answer["height"], answer["passes"]) == (1024, 512, 0)


def test_mblimit_keeps_noise_within_5_mb(upsampler_client: FlaskClient) -> None:
    noise = in_base64(Image.effect_noise((2048, 2048), 100).convert("RGB"), "JPEG", quality=95)
    free = post(upsampler_client, image=noise, resolution=2048, mblimit=False, format="jpeg")
    kept = post(upsampler_client, image=noise, resolution=2048, mblimit="true")
    assert len(base64.b64decode(kept["image"])) <= 5_000_000
    assert (kept["format"], from_base64(kept["image"]).format) == ("jpeg", "JPEG")
    assert (kept["width"], free["quality"]) == (2048, None)


#: 4,204 tiles of 150 guided steps.
HOURS = {
    "image": in_base64(photo(16)),
    "resolution": 2048,
    "tile": 32,
    "tile_overlap": 16,
    "num_inference_steps": 150,
    "guidance_scale": 30,
}


def test_what_would_take_hours_is_refused_before_it_begins(
    upsampler_client: FlaskClient, upsampler_service: Service
) -> None:
    done = upsampler_service.queue.units_done
    refused = upsampler_client.post("/upsampler", json=HOURS)
    problem = refused.get_json(force=True)
    assert (refused.status_code, problem["status"]) == (504, "false")
    assert problem["type"] == "/problems/timed-out"
    assert problem["estimated_seconds"] > problem["patience_seconds"] == 900
    assert upsampler_service.queue.units_done == done


@pytest.mark.parametrize("engine", ["sd", "swin2sr"])
def test_a_client_says_how_long_it_waits_and_no_longer_than_the_service(
    upsampler_client: FlaskClient, engine: str
) -> None:
    body = KEPT | {"engine": engine}
    answer = upsampler_client.post("/upsampler", json=body, headers={"Prefer": "wait=0"})
    assert (answer.status_code, answer.get_json(force=True)["type"]) == (504, "/problems/timed-out")
    answer = upsampler_client.post("/upsampler", json=HOURS, headers={"Prefer": "wait=3600"})
    assert (answer.status_code, answer.get_json(force=True)["patience_seconds"]) == (504, 900)


@pytest.mark.parametrize("engine", ["sd", "swin2sr"])
def test_what_takes_longer_than_estimated_is_stopped_when_the_time_is_over(
    upsampler_client: FlaskClient, upsampler_service: Service, engine: EngineName
) -> None:
    loaded = upsampler_service.engines.get(upsampler_service.upscaler(engine))
    # As if it were so fast. No tile is done within the time: the network itself has to stop.
    loaded.pace.seconds_per_unit = 1e-12
    body = {"image": in_base64(photo(512)), "resolution": 2048, "engine": engine, "tile": 512}
    answer = upsampler_client.post("/upsampler", json=body, headers={"Prefer": "wait=1"})
    assert answer.status_code == 504
    assert "not finished within the time" in answer.get_json(force=True)["message"]
    loaded._warm_up()  # type: ignore[attr-defined]


def test_the_estimate_is_the_sum_of_the_work_that_is_done(upsampler_service: Service) -> None:
    for name, tile in (("sd", 64), ("swin2sr", 64)):
        upscaler = upsampler_service.upscaler(name)
        engine = upsampler_service.engines.get(upscaler)
        manner = Manner(tile=tile, overlap=16, seed=0, steps=2, guidance_scale=2.0)
        told: list[float] = []
        enlarge(engine, photo(250, 20), 1024, manner, lambda: False, told.append)
        assert sum(told) == pytest.approx(work_of((250, 20), 1024, engine, manner))
        assert len(told) > 3
        assert engine.pace.seconds_per_unit > 0


def test_a_client_does_not_raise_the_operators_bound_of_a_tile(
    upsampler_client: FlaskClient, upsampler_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = upsampler_service.settings.model_copy(update={"max_tile": 64})
    monkeypatch.setattr(upsampler_service, "settings", settings)
    assert refused(upsampler_client, KEPT | {"tile": 65}, "tile") == 422
    assert "at most 64" in upsampler_client.post("/upsampler", json=KEPT | {"tile": 65}).text
    answer = post(upsampler_client, image=in_base64(photo(350, 16)), num_inference_steps=1)
    assert answer["settings"]["tile"] == 64, "the model's own is no larger either"


def test_memory_that_does_not_suffice_is_a_503_and_the_service_goes_on(
    upsampler_client: FlaskClient, upsampler_service: Service
) -> None:
    unet = upsampler_service.engines.get(upsampler_service.upscaler("sd"))._pipeline.unet  # type: ignore[attr-defined]
    too_large = unet.register_forward_pre_hook(lambda *_: torch.empty(2**50))
    try:
        answer = upsampler_client.post("/upsampler", json=KEPT)
    finally:
        too_large.remove()
    assert (answer.status_code, answer.get_json(force=True)["type"]) == (503, "/problems/out-of-memory")
    assert "smaller tile" in answer.get_json(force=True)["message"]
    post(upsampler_client, image=in_base64(photo(350, 16)), num_inference_steps=1)


def test_what_is_transparent_is_laid_on_white(upsampler_client: FlaskClient) -> None:
    image = Image.new("RGBA", (350, 16))
    shown = from_base64(post(upsampler_client, image=in_base64(image), num_inference_steps=1)["image"])
    assert shown.mode == "RGB"
    assert min(low for low, _ in shown.getextrema()) > 200


def test_a_service_that_leaves_waits_for_the_file_of_a_picture(upsampler_service: Service) -> None:
    leaving = Service(upsampler_service.settings)
    leaving.engines = upsampler_service.engines
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as turns:
        for _ in range(2):  # all there are: the picture is done and waits to be written
            turns.enter_context(leaving._encoding.enter(lambda: False))
        body = KEPT | {"image": in_base64(photo(350, 16)), "num_inference_steps": 1}
        asking = pool.submit(create_app(leaving).test_client().post, "/upsampler", json=body)
        until(lambda: leaving.pictures == 1)
        assert not leaving.queue.busy
        draining = pool.submit(leaving.drain, 600)
        until(lambda: leaving.leaving.draining)
        assert not draining.done()
        turns.close()
        assert asking.result().status_code == 200
        draining.result()


def test_swin2sr_is_an_engine_beside(upsampler_client: FlaskClient) -> None:
    answer = post(upsampler_client, engine="swin2sr", image=in_base64(photo(256, 64)))
    assert (answer["engine"], answer["model"], answer["passes"]) == ("swin2sr", "random-x4", 1)
    assert answer["settings"] == {"tile": 512, "overlap": 32}
    assert from_base64(answer["image"]).size == (1024, 256)
    listed = upsampler_client.get("/models").get_json()["models"]
    assert {m["name"] for m in listed if m["default"]} == {TINY, "random-x4"}
    assert {m["name"] for m in listed if m["loaded"]} == {TINY, "random-x4"}


@pytest.mark.parametrize(
    ("engine", "model"),
    [("swin2sr", "caidas/swin2SR-lightweight-x2-64"), ("sd", "stabilityai/stable-diffusion-x4-upscaler")],
)
def test_a_model_that_no_hub_gives_is_a_503_that_says_so(
    upsampler_client: FlaskClient, engine: str, model: str
) -> None:
    answer = upsampler_client.post("/upsampler", json=KEPT | {"engine": engine, "model": model})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    problem = answer.get_json(force=True)
    assert problem["status"] == "false"
    assert problem["type"] == "/problems/model-unavailable"
    assert model in problem["message"]
    assert "hub" in problem["message"]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "I;16", "1"])
def test_any_mode_goes_in(upsampler_client: FlaskClient, mode: str) -> None:
    image = photo(700).convert("L" if mode == "I;16" else "RGBA" if mode == "LA" else "RGB")
    image = image.convert("I").point(lambda value: value * 257) if mode == "I;16" else image.convert(mode)
    image = image.convert("I;16") if mode == "I;16" else image
    file = in_base64(image, "TIFF")
    assert post(upsampler_client, image=file)["width"] == 1024


def test_exif_orientation_and_animations_are_understood(upsampler_client: FlaskClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = in_base64(photo(1100, 1050), "JPEG", exif=exif)
    assert post(upsampler_client, image=turned)["height"] == 1024
    frames = [photo(1030), Image.new("RGB", (1030, 1030))]
    animated = in_base64(frames[0], "PNG", save_all=True, append_images=frames[1:])
    shown = from_base64(post(upsampler_client, image=animated)["image"])
    assert difference(shown, photo(1030).resize((1024, 1024), Image.Resampling.LANCZOS)) <= 2


def claim_of_300_megapixels() -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 15_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def broken_jpeg() -> str:
    buffer = io.BytesIO()
    photo(64).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()[:-200]).decode()


#: name: (key, value) that spoils a request; the answer names the key.
FIELDS: dict[str, tuple[str, Any]] = {
    "broken base64": ("image", "!!!not base64!!!"),
    "base64 cut short": ("image", PHOTO[:-3]),
    "not an image": ("image", base64.b64encode(b"once upon a time").decode()),
    "half an image": ("image", base64.b64encode(base64.b64decode(PHOTO)[:2000]).decode()),
    "a JPEG with a broken tail": ("image", broken_jpeg()),
    "an empty string": ("image", ""),
    "a number": ("image", 7),
    "a pixel": ("image", in_base64(photo(1))),
    "a line of 20,000 pixels": ("image", in_base64(Image.new("RGB", (1, 20_000)))),
    "300 megapixels claimed": ("image", claim_of_300_megapixels()),
    "another resolution": ("resolution", 512),
    "half a resolution": ("resolution", 1024.5),
    "a resolution in words": ("resolution", "large"),
    "a boolean resolution": ("resolution", True),
    "another limit": ("mblimit", "maybe"),
    "a prompt of 4,001 characters": ("prompt", "x" * 4001),
    "a lone surrogate": ("prompt", "\ud800"),
    "an unknown key": ("steps", 5),
    "an unknown engine": ("engine", "esrgan"),
    "a model from a path": ("model", "../../x"),
    "a model from a url": ("model", "https://example.com/model"),
    "a model of the other engine": ("model", "random-x4"),
    "0 steps": ("num_inference_steps", 0),
    "10^9 steps": ("num_inference_steps", 10**9),
    "too much noise": ("noise_level", 351),
    "guidance beyond": ("guidance_scale", 31),
    "a negative seed": ("seed", -1),
    "a tiny tile": ("tile", 8),
    "an overlap without a tile": ("tile_overlap", 8),
    "an unknown format": ("format", "bmp"),
}


def refused(client: FlaskClient, body: Any, field: str | None = None) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/upsampler", data=data, content_type="application/json")
    problem = answer.get_json(force=True)
    assert 400 <= answer.status_code < 500, problem
    assert answer.mimetype == "application/problem+json"
    assert problem["status"] == "false"
    assert problem["message"]
    assert problem["request_id"]
    if field is not None:
        assert problem["field"] == field
    assert len(answer.data) < 3000, "an error does not echo what was sent"
    return answer.status_code


@pytest.mark.parametrize("name", FIELDS)
def test_a_request_is_refused_for(
    upsampler_client: FlaskClient, upsampler_service: Service, name: str
) -> None:
    field, value = FIELDS[name]
    assert refused(upsampler_client, KEPT | {field: value}, field) == 422
    assert not upsampler_service.queue.busy


def test_an_overlap_of_more_than_half_a_tile_is_refused(upsampler_client: FlaskClient) -> None:
    refused(upsampler_client, KEPT | {"tile": 64, "tile_overlap": 33}, "tile_overlap")


@pytest.mark.parametrize("field", ["noise_level", "seed", "guidance_scale", "num_inference_steps"])
def test_swin2sr_takes_no_settings_of_a_diffusion(upsampler_client: FlaskClient, field: str) -> None:
    refused(upsampler_client, KEPT | {"engine": "swin2sr", field: 1}, field)


@pytest.mark.parametrize(
    "body", [b"[]", b'"image"', b"null", b"", b"{", b"[" * 20_000, b'{"a":' * 20_000, b"\xff\xfe{}"]
)
def test_what_is_no_json_object_is_a_400(upsampler_client: FlaskClient, body: bytes) -> None:
    assert refused(upsampler_client, body) == 400


def test_an_image_is_required_and_a_body_is_bounded(
    upsampler_client: FlaskClient, upsampler_service: Service
) -> None:
    assert refused(upsampler_client, {"prompt": "a cat"}, "image") == 422
    body = b'{"image": "' + b"x" * upsampler_service.settings.max_body_bytes + b'"}'
    assert refused(upsampler_client, body) == 413


def test_the_documents_of_the_api_tell_of_it(upsampler_client: FlaskClient) -> None:
    document = upsampler_client.get("/openapi.json").get_json()
    assert set(document["paths"]) == {"/", "/models", "/upsampler", "/progress/{request_id}"}
    metrics = upsampler_client.get("/metrics").get_data(as_text=True)
    assert "pictures_waiting 0.0" in metrics
    assert "upscaler_ready 1.0" in metrics
