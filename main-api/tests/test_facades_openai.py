"""OpenAI's own client against main-api: pictures of a real instance, and errors as that client knows them."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from background_parts import complete, picture
from facade_parts import Everything
from main_api_servers import Api
from PIL import Image
from waiting import until

STEPS: dict[str, Any] = {"num_inference_steps": 2, "seed": 3}


@pytest.fixture
def tenant(everything_running: Everything) -> Api:
    return everything_running.main_api.as_tenant("openai")


@pytest.fixture
def client(everything_running: Everything, tenant: Api) -> Iterator[openai.OpenAI]:
    url = f"{everything_running.main_api.url}/v1"
    with openai.OpenAI(api_key=tenant.key, base_url=url, max_retries=0) as found:
        yield found


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_pictures_are_drawn_in_number_size_and_format(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a red ball",
        n=2,
        size="96x64",  # type: ignore[arg-type]
        output_format="webp",
        response_format="b64_json",
        quality="high",
        user="somebody",
        extra_body=STEPS,
    )
    assert answer.data is not None
    images = [opened(one.b64_json) for one in answer.data]
    assert [(image.size, image.format) for image in images] == [((96, 64), "WEBP")] * 2
    assert all(one.url is None for one in answer.data)
    assert (answer.output_format, answer.size, answer.background) == ("webp", "96x64", "opaque")
    assert answer.created > 1_600_000_000


def test_pictures_are_drawn_with_seeds_of_their_own_and_come_by_url(
    client: openai.OpenAI, tenant: Api
) -> None:
    answer = client.images.generate(prompt="a red ball", response_format="url", extra_body=STEPS, user="u1")
    assert answer.data is not None
    assert answer.data[0].url is not None
    got = httpx.get(answer.data[0].url)
    assert Image.open(io.BytesIO(got.content)).size == (128, 128)
    job = tenant.get("/v1/jobs?limit=1").json()["jobs"][0]
    assert (job["kind"], job["status"], job["metadata"]) == ("generation", "succeeded", {"user": "u1"})


@pytest.mark.parametrize("model", [None, "gpt-image-1", "dall-e-3", "enlight/tiny-sd"])
def test_their_names_of_models_draw_with_the_base_model(client: openai.OpenAI, model: str | None) -> None:
    named = {"model": model} if model else {}
    answer = client.images.generate(prompt="a ball", extra_body={"num_inference_steps": 1}, **named)  # type: ignore[call-overload]
    assert answer.data[0].b64_json
    assert answer.data[0].url


def test_a_transparent_background_is_cut_out_after_drawing(
    client: openai.OpenAI, tenant: Api, everything_running: Everything
) -> None:
    node = everything_running.main_api.as_node()
    answers: list[openai.types.ImagesResponse] = []

    def ask() -> None:
        answers.append(client.images.generate(prompt="a red ball", background="transparent"))

    caller = threading.Thread(target=ask)
    caller.start()
    claim: dict[str, Any] = {}
    until(lambda: claim.update(node.claim(kinds=("generation",)) or {}) or claim, "the first step")
    complete(node, claim)
    caller.join()
    (answer,) = answers
    assert answer.background == "transparent"
    assert answer.data is not None
    assert opened(answer.data[0].b64_json).size == (32, 32)
    assert everything_running.services.received[-1].path == "/remove-opacity"
    job = tenant.get("/v1/jobs?kind=chain&limit=1").json()["jobs"][0]
    assert [step["kind"] for step in job["output"]["steps"]] == ["generation", "background_removal"]


def test_a_picture_is_edited_where_the_mask_is_transparent(client: openai.OpenAI, tenant: Api) -> None:
    mask = io.BytesIO()
    half = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, 32, 64))
    half.save(mask, "PNG")
    answer = client.images.edit(
        image=("a.png", picture(64)),
        mask=("mask.png", mask.getvalue()),
        prompt="a blue ball",
        response_format="b64_json",
        extra_body={"num_inference_steps": 2, "strength": 0.9, "seed": 1},
    )
    assert answer.data is not None
    image = opened(answer.data[0].b64_json).convert("RGB")
    kept = image.getpixel((image.width - 8, image.height // 2))
    assert isinstance(kept, tuple)
    assert max(abs(a - b) for a, b in zip(kept, (200, 30, 30), strict=True)) < 60
    job = tenant.get("/v1/jobs?limit=1").json()["jobs"][0]
    assert job["input"].keys() >= {"image", "mask", "strength"}


def test_a_picture_alone_is_drawn_anew(client: openai.OpenAI) -> None:
    answer = client.images.edit(
        image=picture(64), prompt="a blue ball", n=1, extra_body={"num_inference_steps": 2}
    )
    assert answer.data is not None
    assert answer.data[0].b64_json


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "100x100"}, "size"),
        ({"background": "transparent", "output_format": "jpeg"}, "output_format"),
        ({"output_format": "svg"}, "output_format"),
        ({"model": "no such/model"}, "model"),
        ({"stream": True}, "stream"),
        ({"extra_body": {"unknown_field": 1}}, "unknown_field"),
        ({"extra_body": {"scheduler": "no such"}}, "scheduler"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a ball", **options)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_an_unknown_model_a_wrong_key_and_a_wrong_scope_have_their_own_errors(
    client: openai.OpenAI, everything_running: Everything
) -> None:
    for model in ("nobody", "stabilityai/stable-diffusion-xl-base-1.0"):
        with pytest.raises(openai.NotFoundError) as unknown:
            client.images.generate(prompt="a ball", model=model)
        assert unknown.value.code == "model_not_found"
    url = client.base_url
    with openai.OpenAI(api_key="sk-wrong", base_url=url, max_retries=0) as wrong:
        with pytest.raises(openai.AuthenticationError) as refused:
            wrong.images.generate(prompt="a ball")
        assert refused.value.code == "invalid_api_key"
    reader = everything_running.main_api.as_tenant("openai", "read")
    with (
        openai.OpenAI(api_key=reader.key, base_url=url, max_retries=0) as only_reading,
        pytest.raises(openai.PermissionDeniedError),
    ):
        only_reading.images.generate(prompt="a ball")


def test_a_quota_that_is_used_up_is_a_rate_limit_error(everything_running: Everything) -> None:
    poor = everything_running.main_api.as_tenant("openai-poor", max_stored_bytes=0)
    url = f"{everything_running.main_api.url}/v1"
    with (
        openai.OpenAI(api_key=poor.key, base_url=url, max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        client.images.generate(prompt="a ball")
    assert refused.value.code == "insufficient_quota"


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ({}, "image"),
        ({"image": ("a.png", b"no picture")}, "image"),
        ({"image": ("a.png", picture()), "mask": ("m.png", picture())}, "mask"),
    ],
)
def test_a_form_that_is_wrong_is_a_bad_request(tenant: Api, files: dict[str, Any], param: str) -> None:
    answer = tenant.post("/v1/images/edits", data={"prompt": "a ball"}, files=files or {"x": ("x", b"x")})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    told = tenant.post("/v1/images/edits", json={"prompt": "a ball"})
    assert told.status_code == 400
    assert told.json()["error"]["type"] == "invalid_request_error"
