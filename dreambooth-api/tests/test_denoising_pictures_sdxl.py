"""SDXL through the whole engine: each picture is plain diffusers' own, whoever is drawn beside it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)
from dreambooth_api.inference.engine import Engine
from dreambooth_api.inference.request import DrawRequest, WeightedModel
from dreambooth_api.inference.schedulers import make_scheduler
from dreambooth_api.models.artifact import BaseReference, Manifest, now
from dreambooth_api.models.bases import resolve_base
from dreambooth_api.models.store import ModelStore
from dreambooth_api.tiny import PIPELINE_FOLDER
from enlight_common.queue import Canceled
from lora_parts import ATTENTION, TEXT, as_diffusers, random_lora, saved, small_xl_unet
from models_parts import store_at
from PIL import Image
from service_parts import SAME, difference, photo
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

NAME = "small-xl"
REQUEST = DrawRequest(
    "a red shoe on the grass", "blue", num_image=1, steps=4, guidance_scale=4.0, width=64, height=64
)


@dataclass(frozen=True)
class Case:
    """What is asked for beside ``REQUEST``, and with which adapters at which weights."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, float] = field(default_factory=dict)
    #: Calls of the UNet.
    calls: int = 4

    @property
    def request(self) -> DrawRequest:
        models = tuple(WeightedModel(*one) for one in self.adapters.items())
        return replace(REQUEST, models=models, **self.changes)


FROM_IMAGE = {"image": photo(side=64), "strength": 0.6}
CASES = {
    "the base's own sampler": Case({"seed": 1}),
    "without guidance": Case({"seed": 2, "guidance_scale": 1.0}),
    "the base's own size": Case({"seed": 3, "width": None, "height": None}),
    "another shape": Case({"seed": 4, "width": 64, "height": 96}),
    "DPM++ 2M": Case({"seed": 5, "scheduler": "dpm++_2m_karras"}),
    "PNDM": Case({"seed": 6, "scheduler": "pndm"}, calls=5),
    "from an image": Case({"seed": 7, **FROM_IMAGE, "steps": 5}, calls=3),
    "from an image by PNDM": Case({"seed": 8, **FROM_IMAGE, "steps": 6, "scheduler": "pndm"}, calls=4),
    "an adapter of the text encoders, too": Case({"seed": 9}, {"wordy": 0.8}),
    "several adapters": Case({"seed": 10}, {"one": 0.7, "wordy": -0.5}),
    "an adapter and PNDM": Case({"seed": 11, "scheduler": "pndm"}, {"one": -1.0}, calls=5),
}
ADAPTERS = ("one", "wordy")


def small_xl(seed: int = 0) -> Any:
    """SDXL with few channels and random weights, the UNet's from *seed*, and the tiny model's VAE, so that
    its pictures show something.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE_FOLDER / "tokenizer")
    encoders = []
    for kind, width in ((CLIPTextModel, 8), (CLIPTextModelWithProjection, 16)):
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        encoders.append(kind(config))
        with torch.no_grad():  # by default words differ by hundredths
            encoders[-1].get_input_embeddings().weight.mul_(50)
    unet = small_xl_unet()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(PIPELINE_FOLDER / "vae"),
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=own_sampler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def own_sampler() -> Any:
    """SDXL's."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )


@functools.cache
def base() -> Any:
    """In plain diffusers."""
    return small_xl()


@functools.cache
def base_with_adapters() -> Any:
    """In plain diffusers, with all adapters loaded."""
    pipeline = small_xl()
    for name in ADAPTERS:
        pipeline.load_lora_weights(adapter_state(name), adapter_name=name)
    return pipeline


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return store_at(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, store: ModelStore) -> Iterator[Engine]:
    """Of the base ``NAME``; its store has the adapters ``one`` and ``wordy``, and the fine-tune ``whole``."""
    folder = tmp_path_factory.mktemp("bases")
    base().save_pretrained(folder / NAME, safe_serialization=True)
    whole = tmp_path_factory.mktemp("whole")
    small_xl(seed=1).save_pretrained(whole, safe_serialization=True)
    (whole / "README.md").unlink(missing_ok=True)
    for name in ADAPTERS:
        adapter = tmp_path_factory.mktemp(name)
        saved(adapter, adapter_state(name))
        store.publish(adapter, manifest(name, "lora"))
    store.publish(whole, manifest("whole", "full"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASE_MODELS_DIR", str(folder))
        engine = Engine(resolve_base(NAME), store)
        engine.load()
        yield engine
        engine.close()


def manifest(name: str, method: Any) -> Manifest:
    return Manifest(
        tenant="default",
        model_id=name,
        method=method,
        base=BaseReference(name=NAME),
        instance_prompt="a sks shoe",
        created_at=now(),
    )


def adapter_state(name: str) -> dict[str, torch.Tensor]:
    """In diffusers' names: of attention, and of the text encoders, too, where it is ``wordy``."""
    parts = {"unet": ATTENTION}
    if name == "wordy":
        parts |= {"text_encoder": TEXT, "text_encoder_2": TEXT}
    state = {}
    for part, layers in parts.items():
        lora = random_lora(getattr(base(), part), layers, seed=ADAPTERS.index(name), strength=0.3)
        state |= as_diffusers(lora, part)
    return state


def at_once(engine: Engine, requests: Mapping[str, DrawRequest]) -> dict[str, Image.Image]:
    """The first picture of each, all asked for at the same time."""
    drawn = {}

    def draw(name: str) -> None:
        drawn[name] = engine.draw(requests[name]).pictures[0].image

    threads = [threading.Thread(target=draw, args=(name,)) for name in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return drawn


@pytest.fixture(scope="module")
def drawn(engine: Engine) -> dict[str, Image.Image]:
    """Every case's picture, drawn in batches with those of the others."""
    before = engine.counts.picture_steps
    pictures = at_once(engine, {name: case.request for name, case in CASES.items()})
    taken = engine.counts.picture_steps - before
    assert taken == sum(case.calls for case in CASES.values()), "something was left to the plain pipelines"
    return pictures


def by_diffusers(pipeline: Any, case: Case) -> Image.Image:
    """The picture by diffusers without any code of ours."""
    request = case.request
    if case.adapters:
        pipeline.set_adapters(list(case.adapters), list(case.adapters.values()))
    pipeline.scheduler = own_sampler()
    if request.scheduler is not None:
        pipeline.scheduler = make_scheduler(request.scheduler, pipeline.scheduler.config)
    shape: dict[str, Any] = {"width": request.width, "height": request.height}
    if request.image is not None:
        pipeline = AutoPipelineForImage2Image.from_pipe(pipeline)
        pipeline.set_progress_bar_config(disable=True)
        shape = {"image": request.image, "strength": request.strength}
    picture: Image.Image = pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed or 0),
        **shape,
    ).images[0]
    return picture


@pytest.mark.parametrize("name", CASES)
def test_a_picture_among_others_is_plain_diffusers_own(drawn: dict[str, Image.Image], name: str) -> None:
    case = CASES[name]
    pipeline = base_with_adapters() if case.adapters else base()
    assert difference(drawn[name], by_diffusers(pipeline, case)) <= SAME
    if case.adapters:
        assert difference(drawn[name], by_diffusers(base(), replace(case, adapters={}))) > 10 * SAME


def test_a_whole_fine_tune_is_drawn_beside_a_running_batch(
    engine: Engine, drawn: dict[str, Image.Image]
) -> None:
    running, done = threading.Event(), threading.Event()
    steps: list[int] = []
    ended: list[BaseException] = []

    def told(taken: int, _all: int) -> None:
        steps.append(taken)
        running.set()
        if done.is_set():
            raise Canceled

    def long() -> None:
        try:
            engine.draw(replace(REQUEST, steps=1000), on_step=told)
        except Canceled as error:
            ended.append(error)

    batch = threading.Thread(target=long)
    batch.start()
    while not running.wait(0.1):
        assert batch.is_alive()
    before = len(steps)
    names = ["the base's own sampler", "an adapter and PNDM"]
    whole = Case({"seed": 20}, {"whole": 1.0})
    pictures = at_once(engine, {**{name: CASES[name].request for name in names}, "whole": whole.request})
    between = len(steps) - before
    done.set()
    batch.join()
    assert ended, "the batch was still running"
    assert between >= 4
    assert difference(pictures["whole"], by_diffusers(small_xl(seed=1), Case({"seed": 20}))) <= SAME
    assert difference(pictures["whole"], by_diffusers(base(), Case({"seed": 20}))) > 10 * SAME
    for name in names:
        assert difference(pictures[name], drawn[name]) <= SAME
