"""The kept calls, as their old clients make them."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from background_parts import complete, in_base64, picture
from facade_parts import Everything
from main_api_servers import WITHIN_S, MainApi
from PIL import Image
from waiting import until


@pytest.fixture
def client(everything_running: Everything) -> Iterator[httpx.Client]:
    """One that sends no key."""
    with httpx.Client(base_url=everything_running.main_api.url, timeout=WITHIN_S) as found:
        yield found


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_inference_answers_with_pictures_of_a_real_instance(client: httpx.Client) -> None:
    body = {"prompt": "a red ball", "num_image": 2, "num_inference_steps": 2, "seed": 5}
    answer = client.post("/inference", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["message"] == "Inference is done."
    assert [opened(text).size for text in found["images"]] == [(128, 128)] * 2
    assert found["seeds"] == [5, 6]


def test_remove_lays_on_white_and_remove_opacity_does_not(
    client: httpx.Client, everything_running: Everything
) -> None:
    for path in ("/remove", "/remove-opacity"):
        answer = client.post(path, json={"input_image": in_base64(picture())})
        assert answer.status_code == 200, answer.text
        assert opened(answer.json()["output_image"]).size == (32, 32)
        assert everything_running.services.received[-1].path == path
    several = client.post("/remove", json={"input_images": [in_base64(picture())] * 2})
    assert len(several.json()["output_images"]) == 2
    assert "output_image" not in several.json()


def test_the_two_upsamplers_are_told_apart_by_the_body(
    client: httpx.Client, everything_running: Everything
) -> None:
    sent = everything_running.services.received
    first = client.post(
        "/upsampler",
        json={"image": in_base64(picture()), "prompt": "a ball", "resolution": 2048, "mblimit": "true"},
    )
    assert (first.status_code, first.json()["status"]) == (200, "true"), first.text
    assert sent[-1].json.keys() >= {"image", "prompt", "resolution", "mblimit"}
    assert sent[-1].json["mblimit"] == "true"
    second = client.post(
        "/upsampler",
        json={
            "input_string": in_base64(picture()),
            "model_name": "RealESRGAN_x4plus",
            "out_resolution": 1500,
        },
    )
    assert (second.status_code, second.json()["status"]) == (200, "true"), second.text
    assert (sent[-1].json["model_name"], sent[-1].json["out_resolution"]) == ("RealESRGAN_x4plus", 1500)
    assert client.get("/upsampler").json().keys() == {"message", "hostname"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "image"),
        ({"image": "aGFsbG8=", "input_string": "aGFsbG8="}, "image"),
        ({"image": "aGFsbG8=", "model_name": "x"}, "model_name"),
        ({"input_string": "aGFsbG8=", "mblimit": "true"}, "mblimit"),
        ({"input_string": "aGFsbG8="}, "out_resolution"),
        ({"image": "aGFsbG8=", "resolution": 1500}, "resolution"),
        ({"image": "aGFsbG8=", "resolutionn": 1024}, "resolutionn"),
    ],
)
def test_an_upsampler_call_that_is_wrong_says_status_false(
    client: httpx.Client, body: dict[str, Any], field: str
) -> None:
    answer = client.post("/upsampler", json=body)
    assert answer.status_code == 422
    found = answer.json()
    assert (found["status"], found["field"]) == ("false", field)
    assert found["message"]


def test_train_answers_when_the_model_is_stored_and_an_unknown_key_is_named(
    client: httpx.Client, everything_running: Everything
) -> None:
    body: dict[str, Any] = {
        "INSTANCE_PROMPT": "a sks shoe",
        "OUTPUT_DIR": "kept-shoe",
        "IMAGE_LIST": [in_base64(picture())],
        "LR": 2e-6,
        "MAIN_PROCESS_PORT": 28900,
    }
    wrong = client.post("/train", json={**body, "LERNING_RATE": 1})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "LERNING_RATE")

    node = everything_running.main_api.as_node()
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(client.post("/train", json=body)))
    caller.start()
    claim: dict[str, Any] = {}
    until(lambda: claim.update(node.claim(kinds=("training",)) or {}) or claim, "the training")
    assert claim["input"]["METHOD"] == "full"  # LR without METHOD
    assert claim["input"]["LR"] == 2e-6
    assert len(claim["photos"]) == 1
    complete(node, claim, status="failed", error={"type": "training-failed", "message": "out of memory"})
    caller.join()
    assert answers[0].status_code == 500
    assert answers[0].json()["message"] == "out of memory"


def test_without_a_legacy_tenant_the_kept_calls_want_a_key(main_api: MainApi) -> None:
    for path in ("/train", "/inference", "/remove", "/remove-opacity", "/upsampler"):
        assert httpx.post(f"{main_api.url}{path}", json={}).status_code == 401
    tenant = main_api.as_tenant("kept", "read")
    assert tenant.post("/inference", json={"prompt": "a ball"}).status_code == 403


def test_a_kept_call_with_a_key_is_its_tenants(everything_running: Everything) -> None:
    tenant = everything_running.main_api.as_tenant("kept-own")
    answer = tenant.post("/remove", json={"input_image": in_base64(picture())})
    assert answer.status_code == 200, answer.text
    (job,) = tenant.get("/v1/jobs").json()["jobs"]
    assert (job["kind"], job["status"]) == ("background_removal", "succeeded")


def test_what_the_instance_refuses_is_told_as_it_was(client: httpx.Client) -> None:
    answer = client.post("/inference", json={"prompt": "a ball", "num_image": 1, "scheduler": "no such"})
    assert (answer.status_code, answer.json()["field"]) == (422, "scheduler")
    assert client.post("/inference", json={"prompt": "a ball", "model_id": "nobody"}).status_code == 404
