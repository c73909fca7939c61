"""Where memory does not suffice fewer pictures are done at once; where it does not for one, that is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from dreambooth_api.inference.denoising.autoencoder import Autoencoder
from dreambooth_api.inference.engine import Engine
from dreambooth_api.inference.picture import Drawn
from dreambooth_api.inference.request import DrawRequest
from enlight_common.errors import OutOfMemory
from flask.testing import FlaskClient
from PIL import Image
from service_parts import SAME, difference, photo, plain_pipeline

REQUEST = DrawRequest("a red shoe", num_image=4, steps=3, seed=7, width=64, height=64)
PLAIN = replace(REQUEST, scheduler="unipc")
#: Of another size each, because what does not fit is remembered by the size.
OTHER = replace(REQUEST, width=72, scheduler="unipc")
#: Rows that a picture with guidance has in the UNet.
ROWS = 2


@pytest.fixture
def bounded(engine: Engine) -> Iterator[Callable[..., list[int]]]:
    """Makes a layer find no memory for more than so many rows; gives the rows that it had memory for."""
    hooks: list[Any] = []

    def bound(part: str, most: int, *, after: int = 0) -> list[int]:
        assert engine._parts is not None
        done: list[int] = []

        def look(_layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = len(inputs[0])
            if rows > most and len(done) >= after:
                raise torch.OutOfMemoryError("too much")
            done.append(rows)

        network, _, name = part.partition(".")
        layer = getattr(engine._parts.pipelines.text, network).get_submodule(name)
        hooks.append(layer.register_forward_pre_hook(look))
        return done

    yield bound
    for hook in hooks:
        hook.remove()


def same(one: Drawn, other: Drawn) -> bool:
    pairs = zip(one.pictures, other.pictures, strict=True)
    return all(difference(mine.image, theirs.image) <= SAME for mine, theirs in pairs)


@pytest.mark.parametrize("request_", [REQUEST, replace(OTHER, height=80)])
def test_decoding_goes_on_with_fewer_pictures(
    engine: Engine, bounded: Callable[..., list[int]], request_: DrawRequest
) -> None:
    expected = engine.draw(request_)
    decoded = bounded("vae.decoder.conv_in", 1)
    assert same(engine.draw(request_), expected)
    assert decoded == [1, 1, 1, 1]


def test_a_picture_that_cannot_be_decoded_is_told_to_be_too_large(
    engine: Engine, bounded: Callable[..., list[int]], client: FlaskClient
) -> None:
    bounded("vae.decoder.conv_in", 0)
    for wanted in (REQUEST, PLAIN):
        with pytest.raises(OutOfMemory):
            engine.draw(replace(wanted, num_image=1))
    answer = client.post("/inference", json={"prompt": "a cup", "num_image": 1, "num_inference_steps": 1})
    assert (answer.status_code, answer.get_json()["type"]) == (503, "/problems/out-of-memory")
    assert answer.headers["Retry-After"]


@pytest.mark.parametrize(("request_", "after"), [(PLAIN, 0), (OTHER, 1)])
def test_a_plain_batch_goes_on_with_fewer_pictures(
    engine: Engine, bounded: Callable[..., list[int]], request_: DrawRequest, after: int
) -> None:
    told: list[tuple[int, int]] = []
    expected = engine.draw(request_)
    done = bounded("unet.conv_in", 2 * ROWS, after=after)
    drawn = engine.draw(request_, on_step=lambda done, steps: told.append((done, steps)))
    assert same(drawn, expected)
    assert done == [4 * ROWS] * after + [2 * ROWS] * 6
    assert max(told) == told[-1] == (12, 12), "steps in vain do not count"


def test_a_picture_that_fits_not_even_alone_is_refused(
    engine: Engine, bounded: Callable[..., list[int]]
) -> None:
    bounded("unet.conv_in", 0)
    with pytest.raises(OutOfMemory):
        engine.draw(PLAIN)
    with pytest.raises(OutOfMemory):
        engine.draw(REQUEST)


@pytest.mark.parametrize("mask", [None, Image.new("L", (96, 96), 255)])
def test_an_image_that_cannot_be_encoded_is_told_to_be_too_large(
    engine: Engine, bounded: Callable[..., list[int]], mask: Image.Image | None
) -> None:
    from_image = replace(REQUEST, num_image=1, image=photo(), mask=mask, strength=0.7)
    bounded("vae.encoder.conv_in", 0)
    with pytest.raises(OutOfMemory):
        engine.draw(from_image)
    assert engine.draw(replace(REQUEST, num_image=1)).pictures


def test_a_vae_that_a_pipeline_left_in_another_precision_is_put_right() -> None:
    pipeline = plain_pipeline()
    autoencoder = Autoencoder(pipeline)

    def fails() -> None:
        with autoencoder.lent():
            pipeline.vae.to(dtype=torch.float64)
            raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        fails()
    assert pipeline.vae.dtype == torch.float32
