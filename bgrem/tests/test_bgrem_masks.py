"""The masks are rembg's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from bgrem.cutting import cut_out
from bgrem.models import Models
from bgrem.request import CutOptions
from bgrem.runtimes import Precision, Runtime, find_runtime
from bgrem.service import Service
from bgrem.sessions import Sessions
from bgrem_parts import (
    SMALL,
    WEIGHTS_DIR,
    astronaut,
    difference,
    from_base64,
    in_base64,
    overlap,
    photos,
    weights,
)
from flask.testing import FlaskClient
from PIL import Image

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@pytest.fixture(scope="module")
def rembg_session(bgrem_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """rembg's own session, made by its own constructor: ONNX Runtime in fp32."""
    from rembg.session_factory import new_session

    home = tmp_path_factory.mktemp("rembg-home")
    (home / f"{SMALL}.onnx").symlink_to(weights())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2NET_HOME", str(home))
        return new_session(SMALL, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def rembg_masks(rembg_session: Any) -> dict[str, Image.Image]:
    from rembg.bg import remove

    return {name: remove(photo, session=rembg_session, only_mask=True) for name, photo in photos().items()}


def mask(client: FlaskClient, photo: Image.Image, **options: Any) -> Image.Image:
    body = {"input_image": in_base64(photo), "only_mask": True, **options}
    answer = client.post("/remove", json=body)
    assert answer.status_code == 200, answer.get_json()
    return from_base64(answer.get_json()["output_image"])


@pytest.mark.parametrize("name", photos())
def test_a_mask_in_fp32_is_rembgs(
    client: FlaskClient, rembg_masks: dict[str, Image.Image], name: str
) -> None:
    assert difference(mask(client, photos()[name], precision="fp32"), rembg_masks[name]) <= 1


def test_u2nets_mask_in_bf16_covers_the_same(bgrem_service: Service) -> None:
    runtime = find_runtime("cpu")
    if "bf16" not in runtime.precisions:
        pytest.skip("this processor has no bf16")
    weights("u2net")
    model = Models.of_rembg().named("u2net")
    sessions = Sessions(runtime, bgrem_service.inferences, WEIGHTS_DIR, limit=2)
    exact, rounded = (
        sessions.session(model, precision).predict(photos()["flower"])[0] for precision in PRECISIONS
    )
    assert difference(exact, rounded) > 0, "both were computed in the same precision"
    assert overlap(exact, rounded) >= 0.995


def test_bf16_is_chosen_only_for_models_that_are_right_in_it() -> None:
    runtime = Runtime("openvino", "cpu", ("bf16", "fp32"))
    assert runtime.precision("u2net", "auto") == "bf16"
    assert runtime.precision("u2netp", "auto") == "fp32"
    assert runtime.precision("u2netp", "bf16") == "bf16"
    assert Runtime("tensorrt", "cuda", ("fp16", "fp32")).precision("u2netp", "auto") == "fp16"


def test_plain_onnx_runtime_gives_the_same_mask(
    bgrem_service: Service, rembg_masks: dict[str, Image.Image]
) -> None:
    model = Models.of_rembg().named(SMALL)
    runtime = Runtime("onnxruntime", "cpu", ("fp32",))
    session = Sessions(runtime, bgrem_service.inferences, WEIGHTS_DIR, limit=1).session(model, "fp32")
    (found,) = session.predict(photos()["cat"])
    assert difference(found, rembg_masks["cat"]) <= 1


def test_a_smoothed_mask_is_rembgs(client: FlaskClient, rembg_session: Any) -> None:
    from rembg.bg import remove

    photo = photos()["cat"]
    expected = remove(photo, session=rembg_session, only_mask=True, post_process_mask=True)
    found = mask(client, photo, precision="fp32", post_process_mask=True)
    # A level of one 255th may tip a pixel of the outline, which is then black or white.
    assert overlap(found, expected) >= 0.999


def test_alpha_matting_is_rembgs(client: FlaskClient, rembg_session: Any) -> None:
    from rembg.bg import remove

    photo = photos()["cat"].resize((150, 100))
    expected = remove(photo, session=rembg_session, alpha_matting=True, alpha_matting_erode_size=4)
    body = {
        "input_image": in_base64(photo),
        "alpha_matting": True,
        "alpha_matting_erode_size": 4,
        "precision": "fp32",
    }
    answer = client.post("/remove-opacity", json=body)
    found = from_base64(answer.get_json()["output_image"])
    assert overlap(found.getchannel("A"), expected.getchannel("A")) >= 0.99


def test_every_model_of_rembg_is_offered_that_keeps_pictures_here(client: FlaskClient) -> None:
    from rembg.sessions import sessions

    answer = client.get("/models").get_json()
    offered = {model["name"] for model in answer["models"]}
    assert offered == set(sessions) - {"withoutbg", "atlascloud"}
    assert {"u2net", "u2netp", "isnet-general-use", "birefnet-general", "sam"} <= offered
    assert answer["default"] == SMALL


def test_the_weights_of_a_model_are_known_by_url_and_checksum() -> None:
    models = Models.of_rembg()
    (isnet,) = models.named("isnet-general-use").weights
    assert isnet.urls[0].startswith("https://")
    assert isnet.urls[0].endswith("/isnet-general-use.onnx")
    assert isnet.md5 == "fc16ebd8b0c10d971d3513d564d01e29"
    assert [weight.file for weight in models.named("sam").weights] == [
        "rembg/sam_vit_b_01ec64.encoder.onnx",
        "rembg/sam_vit_b_01ec64.decoder.onnx",
    ]
    assert models.named("u2net_custom").weights == ()


def test_the_least_recently_used_model_is_given_up(bgrem_service: Service) -> None:
    model = Models.of_rembg().named(SMALL)
    sessions = Sessions(
        Runtime("openvino", "cpu", ("fp32", "bf16")), bgrem_service.inferences, WEIGHTS_DIR, limit=1
    )
    first = sessions.session(model, "fp32")
    assert sessions.session(model, "fp32") is first
    sessions.session(model, "bf16")
    assert sessions.loaded == [(SMALL, "bf16")]
    assert (sessions.loads, sessions.evictions) == (2, 1)


def test_queue_is_idle_after_all(bgrem_service: Service) -> None:
    deadline = time.monotonic() + 60
    while bgrem_service.inferences.busy and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not bgrem_service.inferences.busy
    assert bgrem_service.places.taken == 0


def test_a_model_put_there_by_the_operator_is_served(bgrem_service: Service, tmp_path: Path) -> None:
    (tmp_path / "rembg").mkdir()
    (tmp_path / "rembg" / "u2net_custom.onnx").symlink_to(weights())
    models = Models.of_rembg()
    sessions = Sessions(find_runtime("cpu"), bgrem_service.inferences, tmp_path, limit=1)
    (custom,) = sessions.session(models.named("u2net_custom"), "fp32").predict(astronaut())
    known = Sessions(find_runtime("cpu"), bgrem_service.inferences, WEIGHTS_DIR, limit=1)
    (expected,) = known.session(models.named(SMALL), "fp32").predict(astronaut())
    assert difference(custom, expected) == 0


def test_several_masks_become_pictures_one_below_the_other() -> None:
    class TwoThings:
        def predict(self, photo: Image.Image) -> list[Image.Image]:
            return [Image.new("L", photo.size, 255), Image.new("L", photo.size, 0)]

    options = CutOptions(Models.of_rembg().named("u2net_cloth_seg"), "fp32", background=(255, 255, 255))
    picture = cut_out(astronaut(), TwoThings(), options)
    assert picture.size == (160, 320)
    assert difference(picture.crop((0, 0, 160, 160)), astronaut()) == 0
    assert picture.crop((0, 160, 160, 320)).getextrema() == ((255, 255),) * 3
