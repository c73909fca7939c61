"""The service as its clients see it: the kept call, its options, and what strangers send."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from picture_parts import difference, from_base64, in_base64
from PIL import Image
from realesrgan_parts import FAST, disc, photo, request
from realesrgan_service.app import create_app
from realesrgan_service.models.published import GENERAL, GENERAL_NOISY
from realesrgan_service.service import Service
from running_process import until
from safetensors.torch import load_file, save_file

#: So wide that one run of the network is enough for 1025 pixels.
PHOTO = photo(172, 20)
SMALL = photo(48, 36)


def answer(client: FlaskClient, **fields: Any) -> Any:
    answered = client.post("/upsampler", json={**request(PHOTO), **fields})
    assert answered.status_code == 200, answered.text
    return answered.get_json()


def test_the_kept_call_answers_a_picture_of_the_size_asked_for(client: FlaskClient) -> None:
    body = {"input_string": in_base64(SMALL), "model_name": FAST, "out_resolution": 1100, "tile": 0}
    kept = client.post("/upsampler", json={**body, "face_enhance": False, "denoise_strength": 0.5}).get_json()
    assert kept["status"] == "true"
    picture = from_base64(kept["image"])
    assert (picture.size, picture.mode, picture.format) == ((1100, 825), "RGB", "PNG")
    assert kept["passes"] == 2
    assert "denoise_strength" in kept["notes"][0]
    assert client.get("/").get_json().keys() == {"message", "hostname"}


@pytest.mark.parametrize(
    ("side", "size", "passes"), [(400, 1600, 1), (400, 2000, 1), (900, 1200, 1), (1200, 1100, 0)]
)
def test_the_network_is_run_as_often_as_needed(
    client: FlaskClient, side: int, size: int, passes: int
) -> None:
    body = request(photo(side, 16).resize((side, 16)), out_resolution=size)
    told = client.post("/upsampler", json=body).get_json()
    assert (told["passes"], told["width"]) == (passes, size)


def test_tiles_do_not_show(client: FlaskClient) -> None:
    wide = photo(260, 40)
    whole, tiled = (
        client.post("/upsampler", json=request(wide, out_resolution=1040, tile=tile)).get_json()
        for tile in (0, 48)
    )
    assert (whole["tiles"], tiled["tiles"]) == (1, 6)
    assert difference(from_base64(whole["image"]), from_base64(tiled["image"])) <= 1


def test_alpha_is_kept_and_an_opaque_picture_gets_none(client: FlaskClient) -> None:
    cut_out = PHOTO.convert("RGBA")
    alpha = Image.new("L", PHOTO.size, 255)
    alpha.paste(0, (0, 0, 86, 20))
    cut_out.putalpha(alpha)
    enlarged = from_base64(answer(client, input_string=in_base64(cut_out))["image"])
    assert enlarged.mode == "RGBA"
    assert np.asarray(enlarged.getchannel("A"))[:, :450].max() == 0
    assert np.asarray(enlarged.getchannel("A"))[:, 600:].min() == 255
    assert from_base64(answer(client, input_string=in_base64(PHOTO.convert("RGBA")))["image"]).mode == "RGB"


def test_what_is_cut_out_gets_no_dark_fringe(client: FlaskClient) -> None:
    enlarged = from_base64(answer(client, input_string=in_base64(disc((255, 255, 255), 172)))["image"])
    on_white = Image.new("RGBA", enlarged.size, "white")
    on_white.alpha_composite(enlarged)
    assert min(low for low, _ in on_white.convert("RGB").getextrema()) >= 250


def test_a_jpeg_of_a_cut_out_shows_it_on_white(client: FlaskClient) -> None:
    cut_out = disc((200, 30, 30), 172)
    picture = from_base64(answer(client, input_string=in_base64(cut_out), format="jpeg")["image"])
    assert min(picture.getpixel((5, 5))) >= 250


def test_8192_pixels_are_made_of_a_small_picture(client: FlaskClient) -> None:
    strip = photo(200, 16).resize((1300, 16))
    made = answer(client, input_string=in_base64(strip), out_resolution=8192, tile=256, format="jpeg")
    assert (made["width"], made["height"], made["passes"]) == (8192, 101, 2)
    assert made["tiles"] > 8
    picture = from_base64(made["image"])
    back = np.asarray(picture.resize((1300, 16), Image.Resampling.BOX), int)
    assert np.abs(back - np.asarray(strip, int)).mean() < 12, "it is the same picture"


def test_a_client_does_not_raise_the_operators_bound_of_a_tile(
    client: FlaskClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "settings", service.settings.model_copy(update={"tile": 64}))
    refused = client.post("/upsampler", json=request(PHOTO, tile=65))
    assert (refused.status_code, refused.get_json()["field"]) == (422, "tile")
    assert "at most 64" in refused.get_json()["message"]
    assert answer(client, tile=64)["tiles"] == answer(client)["tiles"] == 3


def test_a_webp_that_cannot_be_so_wide_is_refused_before_the_work(
    client: FlaskClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "settings", service.settings.model_copy(update={"max_resolution": 16_384}))
    done = service.queue.units_done
    refused = client.post("/upsampler", json=request(PHOTO, out_resolution=16_384, format="webp"))
    assert (refused.status_code, refused.get_json()["field"]) == (422, "out_resolution")
    assert "16383" in refused.get_json()["message"]
    assert service.queue.units_done == done


def test_a_model_that_cannot_work_in_tiles_gets_no_larger_picture_than_a_tile(
    client: FlaskClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.networks[FAST], "tileable", False)
    assert answer(client)["tiles"] == 1
    refused = client.post("/upsampler", json=request(photo(200).resize((800, 20)), out_resolution=3000))
    assert (refused.status_code, refused.get_json()["field"]) == (422, "input_string")


def test_memory_that_does_not_suffice_is_a_503_and_the_service_goes_on(
    client: FlaskClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(service.networks[FAST], "head", too_large)
        refused = client.post("/upsampler", json=request(PHOTO))
    assert (refused.status_code, refused.get_json()["type"]) == (503, "/problems/out-of-memory")
    assert answer(client)["passes"] == 1


def test_a_service_that_leaves_waits_for_the_file_of_a_picture(service: Service) -> None:
    leaving = Service(service.settings)
    leaving.loaded = service.loaded
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as turns:
        for _ in range(2):  # all there are: the picture is done and waits to be written
            turns.enter_context(leaving._encoding.enter(lambda: False))
        asking = pool.submit(create_app(leaving).test_client().post, "/upsampler", json=request(PHOTO))
        until(lambda: leaving.pictures == 1)
        assert not leaving.queue.busy
        draining = pool.submit(leaving.drain, 600)
        until(lambda: leaving.leaving.draining)
        assert not draining.done()
        turns.close()
        assert asking.result().status_code == 200
        draining.result()


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "I;16"])
def test_any_mode_of_picture_comes_in(client: FlaskClient, mode: str) -> None:
    image = Image.new("I;16", (172, 20), 30_000) if mode == "I;16" else PHOTO.convert(mode)
    text = in_base64(image, "TIFF" if mode == "CMYK" else "PNG")
    assert from_base64(answer(client, input_string=text)["image"]).mode == "RGB"


@pytest.mark.parametrize(("name", "format"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats_go_out(client: FlaskClient, name: str, format: str) -> None:
    assert from_base64(answer(client, format=name)["image"]).format == format


def test_old_names_are_known_and_models_are_listed(client: FlaskClient) -> None:
    assert answer(client, model_name="realesr-animevideov3-x2")["model_name"] == FAST
    listed = {model["name"]: model for model in client.get("/models").get_json()["models"]}
    assert {"RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B", FAST} <= listed.keys()
    assert "realesrgan-x4plus" in listed["RealESRGAN_x4plus"]["aliases"]
    assert (listed[FAST]["loaded"], listed[FAST]["scale"]) == (True, 4)


def test_a_model_that_is_dropped_in_is_listed_and_used(client: FlaskClient, models_dir: Path) -> None:
    dropped = models_dir / "4x-Mine.pth"
    torch.save({"params": load_file(models_dir / f"{FAST}.safetensors")}, dropped)
    try:
        listed = {model["name"]: model for model in client.get("/models").get_json()["models"]}
        assert listed["4x-Mine"]["format"] == "pth"
        mine, theirs = (from_base64(answer(client, model_name=name)["image"]) for name in ("4x-Mine", FAST))
        assert difference(mine, theirs) == 0
    finally:
        dropped.unlink()
    assert client.post("/upsampler", json=request(PHOTO, model_name="4x-Mine")).status_code == 404


def test_denoise_strength_blends_the_general_pair_and_says_where_half_of_it_is_missing(
    client: FlaskClient, models_dir: Path
) -> None:
    general, noisy = (models_dir / f"{name}.safetensors" for name in (GENERAL, GENERAL_NOISY))
    shutil.copyfile(models_dir / f"{FAST}.safetensors", general)
    try:
        answer(client, model_name=GENERAL, denoise_strength=1)
        refused = client.post("/upsampler", json=request(PHOTO, model_name=GENERAL, denoise_strength=0.5))
        assert (refused.status_code, refused.get_json()["field"]) == (422, "denoise_strength")
        state = load_file(general)
        last = max(
            (name for name in state if name.endswith(".bias")), key=lambda name: int(name.split(".")[1])
        )
        save_file({**state, last: state[last] + 0.2}, noisy)
        pictures = [
            np.asarray(
                from_base64(answer(client, model_name=GENERAL, denoise_strength=strength)["image"]), int
            )
            for strength in (1, 0.5, 0)
        ]
        # The other network is 0.2 brighter, and the blend half as much.
        brighter = [float((each - pictures[0]).mean()) for each in pictures[1:]]
        assert 0 < brighter[0] < brighter[1]
    finally:
        general.unlink()
        noisy.unlink(missing_ok=True)


def huge_png(width: int, height: int) -> str:
    """A header that claims the size, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return base64.b64encode(data + chunk(b"IEND", b"")).decode()


def broken_jpeg() -> str:
    data = base64.b64decode(in_base64(photo(300), "JPEG"))
    return base64.b64encode(data[: len(data) // 2]).decode()


FIELDS: dict[str, tuple[str, Any]] = {
    "no base64": ("input_string", "!!!"),
    "nothing": ("input_string", ""),
    "no image": ("input_string", base64.b64encode(b"once upon a time").decode()),
    "a number": ("input_string", 7),
    "a list": ("input_string", [in_base64(PHOTO)]),
    "a jpeg with a broken tail": ("input_string", broken_jpeg()),
    "1×1 pixels": ("input_string", in_base64(Image.new("RGB", (1, 1)))),
    "1×20,000 pixels": ("input_string", in_base64(Image.new("RGB", (1, 20_000)))),
    "300 megapixels by its header": ("input_string", huge_png(20_000, 15_000)),
    "a path": ("model_name", "../../x"),
    "an absolute path": ("model_name", "/etc/passwd"),
    "an empty name": ("model_name", ""),
    "a name of 4 KB": ("model_name", "x" * 4096),
    "a name with NUL": ("model_name", "x\0y"),
    "a lone surrogate": ("model_name", "\ud800"),
    "1024": ("out_resolution", 1024),
    "beyond the bound": ("out_resolution", 8193),
    "10^9": ("out_resolution", 10**9),
    "half a pixel": ("out_resolution", 2000.5),
    "a size of nan": ("out_resolution", "nan"),
    "true for a size": ("out_resolution", True),
    "too strong": ("denoise_strength", 1.1),
    "a negative strength": ("denoise_strength", -0.1),
    "a negative tile": ("tile", -1),
    "a tile of 5": ("tile", 5),
    "a tile beyond the service's": ("tile", 769),
    "an unknown format": ("format", "bmp"),
    "an unknown key": ("outscale", 4),
    "faces without their weights": ("face_enhance", True),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_bad_field_is_named_and_its_value_is_not_repeated(client: FlaskClient, case: str) -> None:
    field, value = FIELDS[case]
    answered = client.post("/upsampler", json=request(PHOTO, **{field: value}))
    problem = answered.get_json()
    assert answered.status_code in (400, 404, 422), answered.text
    assert problem["status"] == "false"
    assert problem["message"]
    assert field in (problem.get("field", field), problem["detail"])
    if isinstance(value, str) and len(value) > 3:
        assert value not in answered.text
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[" * 20_000, 400), (b"{", 400), (b"[]", 400), (b'{"input_string": "\xff"}', 400), (b"{}", 422)],
)
def test_a_bad_body_is_refused(client: FlaskClient, body: bytes, status: int) -> None:
    answered = client.post("/upsampler", data=body, content_type="application/json")
    assert (answered.status_code, answered.get_json()["status"]) == (status, "false")


def test_an_animated_png_gives_its_first_frame(client: FlaskClient) -> None:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "PNG", save_all=True, append_images=[Image.new("RGB", PHOTO.size)])
    animated = answer(client, input_string=base64.b64encode(buffer.getvalue()).decode())
    assert difference(from_base64(animated["image"]), from_base64(answer(client)["image"])) == 0


def test_a_pickle_that_writes_a_file_is_refused(
    client: FlaskClient, models_dir: Path, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/written",)

    torch.save({"params": Evil()}, models_dir / "evil.pth")
    try:
        refused = client.post("/upsampler", json=request(PHOTO, model_name="evil"))
    finally:
        (models_dir / "evil.pth").unlink()
    assert (refused.status_code, refused.get_json()["field"]) == (422, "model_name")
    assert list(tmp_path.iterdir()) == []


def test_what_takes_longer_than_estimated_is_stopped_when_the_time_is_over(
    client: FlaskClient, service: Service
) -> None:
    network = service.networks[FAST]
    pace = network.seconds_per_pixel
    network.seconds_per_pixel = 0.0  # as if it were so fast
    try:
        # Decoded at once, and computed in far more than the time.
        body = request(photo(300).resize((1200, 1200)), out_resolution=4800)
        late = client.post("/upsampler", json=body, headers={"Prefer": "wait=2"})
    finally:
        network.seconds_per_pixel = pace
    assert late.status_code == 504
    assert "not finished within the time" in late.get_json()["message"]


def test_what_would_outlast_the_clients_patience_is_refused_before_it_begins(client: FlaskClient) -> None:
    body = request(photo(300), out_resolution=8192)
    refused = client.post("/upsampler", json=body, headers={"Prefer": "wait=0"})
    problem = refused.get_json()
    assert (refused.status_code, problem["status"]) == (504, "false")
    assert problem["estimated_seconds"] > problem["patience_seconds"] == 0
    assert client.get("/progress/nobody").status_code == 404
