"""A picture by our steps is the one that diffusers' pipelines draw, down to each random number."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from dreambooth_api.inference.samplers import PictureNoise, Trajectory, trajectory_of
from dreambooth_api.inference.schedulers import make_scheduler
from samplers_parts import CONFIG, KNOWN, NOISY, stepped
from service_parts import photo, plain_pipeline
from torch import Tensor


@pytest.fixture
def drawn_numbers(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Everything that is drawn from a generator, in its order."""
    numbers: list[Tensor] = []
    draw = torch.randn

    def drawing(*args: Any, **kwargs: Any) -> Tensor:
        result = draw(*args, **kwargs)
        if kwargs.get("generator") is not None:
            numbers.append(result)
        return result

    monkeypatch.setattr(torch, "randn", drawing)
    return numbers


@functools.cache
def pipeline_of(dtype: torch.dtype, from_image: bool) -> Any:
    pipeline = plain_pipeline().to(dtype=dtype)
    if from_image:
        pipeline = AutoPipelineForImage2Image.from_pipe(pipeline)
        pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_with(name: str, from_image: bool, dtype: torch.dtype = torch.float32) -> Any:
    pipeline = pipeline_of(dtype, from_image)
    # Now and not before: a pipeline's constructor sets some of its scheduler's configuration.
    pipeline.scheduler = make_scheduler(name, CONFIG)
    return pipeline


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("from_image", [False, True])
@pytest.mark.parametrize("name", ["euler", *NOISY])
def test_a_seed_gives_a_picture_the_numbers_that_a_pipeline_draws(
    drawn_numbers: list[Tensor], name: str, from_image: bool, dtype: torch.dtype
) -> None:
    pipeline = pipeline_with(name, from_image, dtype)
    settings: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent"}
    if from_image:
        settings |= {"image": photo(), "strength": 0.7}
    pipeline("a red shoe", generator=torch.Generator("cpu").manual_seed(9), **settings)
    trajectory = trajectory_of(name, CONFIG, 3, 0.7 if from_image else 1.0)
    assert trajectory is not None
    side = 12 if from_image else 16
    assert_draws(
        drawn_numbers,
        trajectory,
        PictureNoise(9, (4, side, side), dtype),
        encodes_in=dtype if from_image else None,
    )


def test_sdxl_samples_its_image_in_single_precision(drawn_numbers: list[Tensor]) -> None:
    pipeline = small_sdxl().to(dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    embeddings = torch.zeros((1, 77, 16), dtype=torch.bfloat16)
    pipeline(
        prompt_embeds=embeddings,
        pooled_prompt_embeds=embeddings[:, 0],
        guidance_scale=1.0,
        image=photo(side=64),
        strength=0.7,
        num_inference_steps=3,
        output_type="latent",
        generator=torch.Generator("cpu").manual_seed(9),
    )
    trajectory = trajectory_of("euler_a", CONFIG, 3, 0.7)
    assert trajectory is not None
    noise = PictureNoise(9, (4, 8, 8), torch.bfloat16)
    assert_draws(drawn_numbers, trajectory, noise, encodes_in=torch.float32)


def small_sdxl() -> Any:
    """SDXL's image pipeline with random weights, without its text encoders."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(1, 2),
        cross_attention_dim=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    blocks = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "latent_channels": 4}
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **blocks
    )
    return StableDiffusionXLImg2ImgPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=make_scheduler("euler_a", CONFIG),
        add_watermarker=False,
    )


def assert_draws(
    theirs: list[Tensor], trajectory: Trajectory, noise: PictureNoise, *, encodes_in: torch.dtype | None
) -> None:
    theirs = list(theirs)
    wanted: list[torch.dtype | None] = [] if encodes_in is None else [encodes_in]
    wanted += [None, *(trajectory.noise_dtype for draws in trajectory.noise_steps if draws)]
    ours = [noise.draw(dtype) for dtype in wanted]
    # What diffusers draws in the last step it multiplies by zero.
    assert len(ours) <= len(theirs) <= len(ours) + 1
    for our, their in zip(ours, theirs, strict=False):
        assert our.dtype == their.dtype
        assert torch.equal(our, their)


@pytest.mark.parametrize(
    ("name", "from_image"),
    [*((name, False) for name in KNOWN), *((name, True) for name in ("ddim", "pndm", "dpm++_2m", "heun"))],
)
def test_a_picture_by_the_real_model_is_a_pipelines_own(name: str, from_image: bool) -> None:
    pipeline = pipeline_with(name, from_image)
    settings: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 4.0}
    if from_image:
        settings |= {"image": photo(), "strength": 0.7}
    theirs = pipeline("a red shoe", generator=torch.Generator("cpu").manual_seed(9), **settings).images
    trajectory = trajectory_of(name, CONFIG, 4, 0.7 if from_image else 1.0)
    assert trajectory is not None
    ours = drawn(pipeline, trajectory, photo() if from_image else None, seed=9)
    assert (ours - theirs).abs().max() <= 1e-3


@torch.inference_mode()
def drawn(pipeline: Any, trajectory: Trajectory, image: Any, seed: int) -> Tensor:
    """The last latents of one picture, by the pipeline's parts and our steps."""
    text, none = pipeline.encode_prompt("a red shoe", "cpu", 1, True)
    embeddings = torch.cat([none, text])
    side = 12 if image else 16
    noise = PictureNoise(seed, (4, side, side), torch.float32)
    if image is None:
        x = trajectory.start_scale * noise.draw()
    else:
        pixels = pipeline.image_processor.preprocess(image)
        seen = pipeline.vae.encode(pixels).latent_dist
        encoded = (seen.mean + seen.std * noise.draw()) * pipeline.vae.config.scaling_factor
        x = trajectory.image_scale * encoded + trajectory.noise_scale * noise.draw()

    def guided(x: Tensor, timestep: Tensor) -> Tensor:
        without, given_text = pipeline.unet(torch.cat([x, x]), timestep, embeddings).sample.chunk(2)
        return without + 4.0 * (given_text - without)

    *_, last = stepped(trajectory, x, noise, guided)
    return last
