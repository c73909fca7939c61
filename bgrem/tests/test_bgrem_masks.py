"""The masks are rembg's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pooch
import pytest
from bgrem.certainty import is_sure
from bgrem.cutting import cut_out
from bgrem.models import Model, Models
from bgrem.request import CutOptions
from bgrem.runtimes import Runtime, find_runtimes
from bgrem.service import Cutting, Service
from bgrem.sessions import Sessions
from bgrem_parts import SMALL, WEIGHTS_DIR, astronaut, overlap, photos, weights
from enlight_common.errors import InternalError, InvalidField
from flask.testing import FlaskClient
from picture_parts import difference, from_base64, in_base64
from PIL import Image

#: As on a machine where bf16 pays, so that "auto" tries it; its own order is left to `find_runtimes`.
BF16_FIRST = Runtime("openvino", "cpu", ("bf16", "fp32"), 1)


def rembg_session_of(name: str, home: Path) -> Any:
    """rembg's own session, made by its own constructor: ONNX Runtime in fp32."""
    from rembg.session_factory import new_session

    (home / f"{name}.onnx").symlink_to(weights(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2NET_HOME", str(home))
        return new_session(name, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def rembg_session(bgrem_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return rembg_session_of(SMALL, tmp_path_factory.mktemp("rembg-home"))


@pytest.fixture(scope="module")
def rembg_masks(rembg_session: Any) -> dict[str, Image.Image]:
    from rembg.bg import remove

    return {name: remove(photo, session=rembg_session, only_mask=True) for name, photo in photos().items()}


@pytest.fixture(scope="module")
def large(bgrem_service: Service) -> Sessions:
    """Sessions with u2net, in which bf16 is tried."""
    weights("u2net")
    if not any("bf16" in runtime.precisions for runtime in find_runtimes("cpu")):
        pytest.skip("this processor has no bf16")
    return Sessions([BF16_FIRST], bgrem_service.inferences, WEIGHTS_DIR, limit=2)


@pytest.fixture(scope="module")
def large_masks(large: Sessions) -> dict[str, Image.Image]:
    """u2net's masks in fp32."""
    session = large.session(Models.of_rembg().named("u2net"), "fp32")
    return {name: session.predict(photo)[0] for name, photo in photos().items()}


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


def test_u2nets_mask_in_fp32_is_rembgs(large_masks: dict[str, Image.Image], tmp_path: Path) -> None:
    from rembg.bg import remove

    session = rembg_session_of("u2net", tmp_path)
    for name in ("cat", "rocket"):
        expected = remove(photos()[name], session=session, only_mask=True)
        assert difference(large_masks[name], expected) <= 1


def test_auto_keeps_a_mask_in_bf16_only_where_it_covers_the_same(
    large: Sessions, large_masks: dict[str, Image.Image]
) -> None:
    options = CutOptions(Models.of_rembg().named("u2net"), "auto", only_mask=True)
    cutting = Cutting(large, options, large.prepare(options.model, "auto"), lambda: False)
    for name in ("cat", "rocket"):
        assert difference(cutting.cut(photos()[name], "input_image"), large_masks[name]) == 0
    assert cutting.precision == "fp32"
    for name in ("astronaut", "coffee", "flower"):
        found = cutting.cut(photos()[name], "input_image")
        assert difference(found, large_masks[name]) > 1, "both were computed in the same precision"
        assert overlap(found, large_masks[name]) >= 0.995
    assert cutting.precision == "bf16", "the lowest of the pictures"


def test_a_mask_without_a_subject_is_not_sure() -> None:
    assert not is_sure(Image.new("L", (100, 100), 0))
    assert is_sure(Image.new("L", (100, 100), 255))
    torn = Image.new("L", (100, 100), 255)
    torn.paste(120, (0, 0, 100, 1))  # one of a hundred rows
    assert not is_sure(torn)


def test_bf16_is_tried_only_for_models_that_are_mostly_right_in_it() -> None:
    assert BF16_FIRST.tried("u2net", "auto") == ("bf16", "fp32")
    assert BF16_FIRST.tried("u2netp", "auto") == ("fp32",)
    assert BF16_FIRST.tried("u2netp", "bf16") == ("bf16",)
    assert Runtime("openvino", "cpu", ("fp32", "bf16")).tried("u2net", "auto") == ("fp32",)
    assert Runtime("tensorrt", "cuda", ("fp16", "fp32")).tried("u2netp", "auto") == ("fp16",)


def test_a_model_that_openvino_does_not_run_is_told_as_what_it_runs_in(bgrem_service: Service) -> None:
    onnx = Runtime("onnxruntime", "cpu", ("fp32",))
    sessions = Sessions([BF16_FIRST, onnx], bgrem_service.inferences, WEIGHTS_DIR, limit=1)
    sam = sessions.runtime_of("sam")
    assert (sam.name, sam.tried("sam", "auto")) == ("onnxruntime", ("fp32",))
    with pytest.raises(InvalidField) as caught:
        sessions.prepare(Models.of_rembg().named("sam"), "bf16")
    assert caught.value.field == "precision"


def test_a_runtime_that_cannot_load_a_model_gives_way_to_the_next(bgrem_service: Service) -> None:
    # As with onnxruntime-gpu where the libraries of CUDA are missing: the provider is not taken.
    broken = [Runtime("tensorrt", "cuda:0", ("fp16", "fp32")), Runtime("cuda", "cuda:0", ("fp32",))]
    onnx = Runtime("onnxruntime", "cpu", ("fp32",))
    sessions = Sessions([*broken, onnx], bgrem_service.inferences, WEIGHTS_DIR, limit=1)
    model = Models.of_rembg().named(SMALL)
    assert sessions.prepare(model, "auto") == ("fp32",)
    assert sessions.runtime_of(SMALL) == onnx
    assert sessions.session(model, "fp32").predict(astronaut())[0].size == (160, 160)


def test_plain_onnx_runtime_gives_the_same_mask(
    bgrem_service: Service, rembg_masks: dict[str, Image.Image]
) -> None:
    model = Models.of_rembg().named(SMALL)
    runtime = Runtime("onnxruntime", "cpu", ("fp32",))
    session = Sessions([runtime], bgrem_service.inferences, WEIGHTS_DIR, limit=1).session(model, "fp32")
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


def test_no_variable_of_rembgs_turns_the_checksums_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
    (isnet,) = Models.of_rembg().named("isnet-general-use").weights
    assert isnet.md5 == "fc16ebd8b0c10d971d3513d564d01e29"


def test_a_model_without_a_checksum_is_never_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from rembg.sessions import sessions
    from rembg.sessions.u2net import U2netSession

    class Unchecked(U2netSession):
        @classmethod
        def download_models(cls, *_: Any, **__: Any) -> str:
            pooch.retrieve("https://example.org/unchecked.onnx", None, fname="unchecked.onnx", path=".")
            return "unchecked.onnx"

    monkeypatch.setitem(sessions, "unchecked", Unchecked)
    assert Models.of_rembg().named("unchecked").weights == ()


def test_the_least_recently_used_model_is_given_up(bgrem_service: Service) -> None:
    model = Models.of_rembg().named(SMALL)
    sessions = Sessions([BF16_FIRST], bgrem_service.inferences, WEIGHTS_DIR, limit=1)
    first = sessions.session(model, "fp32")
    assert sessions.session(model, "fp32") is first
    sessions.session(model, "bf16")
    assert sessions.loaded == [(SMALL, "bf16")]
    assert (sessions.loads, sessions.evictions) == (2, 1)


def custom(folder: Path, *names: str) -> dict[str, Model]:
    """Models of the operator's, all with the small network."""
    (folder / "rembg").mkdir()
    for name in names:
        (folder / "rembg" / f"{name}.onnx").symlink_to(weights())
    return {name: Models.of_rembg().named(name) for name in names}


def test_the_default_model_is_never_given_up(bgrem_service: Service, tmp_path: Path) -> None:
    models = custom(tmp_path, "u2net_custom", "dis_custom", "ben_custom")
    onnx = Runtime("onnxruntime", "cpu", ("fp32",))
    sessions = Sessions([onnx], bgrem_service.inferences, tmp_path, limit=1, pinned="u2net_custom")
    for model in models.values():
        sessions.session(model, "fp32")
    assert sessions.loaded == [("u2net_custom", "fp32"), ("ben_custom", "fp32")]


def test_a_file_that_is_no_network_is_tried_once(bgrem_service: Service, tmp_path: Path) -> None:
    (tmp_path / "rembg").mkdir()
    file = tmp_path / "rembg" / "u2net_custom.onnx"
    file.write_bytes(b"no network")
    sessions = Sessions(find_runtimes("cpu"), bgrem_service.inferences, tmp_path, limit=1)
    model = Models.of_rembg().named("u2net_custom")
    with pytest.raises(InternalError):
        sessions.prepare(model, "auto")
    file.unlink()
    file.symlink_to(weights())
    with pytest.raises(InternalError):
        sessions.prepare(model, "auto")


def test_what_was_cut_out_leaves_no_place_taken(client: FlaskClient, bgrem_service: Service) -> None:
    done = bgrem_service.inferences.units_done
    mask(client, astronaut())
    mask(client, astronaut(), alpha_matting=True)
    assert bgrem_service.inferences.units_done == done + 2
    assert not bgrem_service.inferences.busy
    assert (bgrem_service.places.taken, bgrem_service.mattings.taken) == (0, 0)


def test_a_model_put_there_by_the_operator_is_served(bgrem_service: Service, tmp_path: Path) -> None:
    model = custom(tmp_path, "u2net_custom")["u2net_custom"]
    sessions = Sessions(find_runtimes("cpu"), bgrem_service.inferences, tmp_path, limit=1)
    (found,) = sessions.session(model, "fp32").predict(astronaut())
    known = Sessions(find_runtimes("cpu"), bgrem_service.inferences, WEIGHTS_DIR, limit=1)
    (expected,) = known.session(Models.of_rembg().named(SMALL), "fp32").predict(astronaut())
    assert difference(found, expected) == 0


def test_several_masks_become_pictures_one_below_the_other() -> None:
    masks = [Image.new("L", (160, 160), 255), Image.new("L", (160, 160), 0)]
    options = CutOptions(Models.of_rembg().named("u2net_cloth_seg"), background=(255, 255, 255))
    picture = cut_out(astronaut(), masks, options, None, "input_image")
    assert picture.size == (160, 320)
    assert difference(picture.crop((0, 0, 160, 160)), astronaut()) == 0
    assert picture.crop((0, 160, 160, 320)).getextrema() == ((255, 255),) * 3


def test_what_becomes_too_high_for_webp_is_refused() -> None:
    options = CutOptions(Models.of_rembg().named("u2net_cloth_seg"))
    options.check_sides(Image.new("RGB", (16, 5461)), "input_image", "webp")
    options.check_sides(Image.new("RGB", (16, 5462)), "input_image", "png")
    with pytest.raises(InvalidField) as caught:
        options.check_sides(Image.new("RGB", (16, 5462)), "input_image", "webp")
    assert "5461" in caught.value.reason
