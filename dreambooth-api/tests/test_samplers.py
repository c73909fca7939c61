"""Every sampler's steps are diffusers' own, alone and in a batch of others, and so is a picture's noise."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from dreambooth_api.inference.samplers import PictureNoise, Trajectory, take_step, trajectory_of
from dreambooth_api.inference.schedulers import make_scheduler
from dreambooth_api.tiny import PIPELINE_FOLDER
from enlight_common.files import read_json
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from service_parts import photo, plain_pipeline
from torch import Tensor

KNOWN = (
    "ddim",
    "ddpm",
    "euler",
    "euler_karras",
    "euler_a",
    "dpm++_2m",
    "dpm++_2m_karras",
    "dpm++_2m_sde",
    "dpm++_2m_sde_karras",
    "lcm",
)
NOISY = ("ddpm", "euler_a", "dpm++_2m_sde", "lcm")
CONFIG = read_json(PIPELINE_FOLDER / "scheduler" / "scheduler_config.json")
SHAPE = (4, 6, 5)
ALIKE = 1e-4  # of the largest latent


def made_up_model(x: Tensor, timestep: Tensor) -> Tensor:
    """Neither linear nor the same at any two steps, for (B, C, h, w) latents and (B,) timesteps."""
    return 0.7 * torch.tanh(x) - 0.2 * x.flip(-1) + 0.1 * torch.cos(timestep.float() / 200).view(-1, 1, 1, 1)


def by_diffusers(
    name: str | None, config: dict[str, Any], steps: int, strength: float, image: Tensor | None, seed: int
) -> Iterator[Tensor]:
    """The latents before the first step and after each, as diffusers' pipelines make them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    scheduler = make_scheduler(name, config)
    scheduler.set_timesteps(steps)
    noise = torch.randn((1, *SHAPE), generator=generator)
    first = 0 if image is None else max(steps - int(steps * strength), 0)
    if hasattr(scheduler, "set_begin_index"):
        # Also for a picture from text, where diffusers would leave out the first of two equal timesteps, as
        # Karras's sigmas have them, and fail one step too late.
        scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    x = noise * scheduler.init_noise_sigma
    if image is not None:
        x = scheduler.add_noise(image, noise, timesteps[:1])
    takes_noise = {"generator": generator} if name in NOISY or str(name).startswith("dpm++") else {}
    yield x
    for timestep in timesteps:
        output = made_up_model(scheduler.scale_model_input(x, timestep), timestep.view(1))
        x = scheduler.step(output, timestep, x, **takes_noise, return_dict=False)[0]
        yield x


def by_us(trajectory: Trajectory, image: Tensor | None, seed: int) -> Iterator[Tensor]:
    noise = PictureNoise(seed, SHAPE, torch.float32)
    start = noise.draw()
    x = trajectory.start_scale * start
    if image is not None:
        x = trajectory.image_scale * image + trajectory.noise_scale * start
    x0 = torch.zeros_like(x)
    yield x
    for index, draws in enumerate(trajectory.noise_steps):
        x, x0 = one_step(trajectory, index, x, x0, noise.draw(trajectory.noise_dtype) if draws else None)
        yield x


def one_step(
    trajectory: Trajectory, index: int, x: Tensor, x0: Tensor, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    output = made_up_model(x * trajectory.model_scale[index], trajectory.timesteps[index : index + 1])
    return take_step(x, output, x0, noise, trajectory.coefficients[index : index + 1])


def assert_alike(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    largest = 0.0
    for step, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        largest = max(largest, float(their.abs().max()))
        # Where no signal is left, sigmas are in the thousands: what diffusers rounds off there stays.
        rounded = 8 * torch.finfo(torch.float32).eps * largest
        assert (our - their).abs().max() <= ALIKE * their.abs().max() + rounded, f"after {step} steps"


def an_image() -> Tensor:
    return torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", KNOWN)
def test_a_samplers_steps_are_diffusers_own(name: str, prediction: str, spacing: str) -> None:
    config = {**CONFIG, "prediction_type": prediction, "timestep_spacing": spacing}
    for steps in (1, 2, 5, 20):
        for strength, image in ((1.0, None), (1.0, an_image()), (0.6, an_image())):
            if int(steps * strength) < 1:
                continue
            trajectory = trajectory_of(name, config, steps, strength)
            if (name, prediction) == ("euler_a", "sample"):
                assert trajectory is None, "diffusers has no such sampler"
                continue
            assert trajectory is not None
            assert_alike(
                by_us(trajectory, image, seed=3), by_diffusers(name, config, steps, strength, image, seed=3)
            )


def configurations() -> st.SearchStrategy[dict[str, Any]]:
    """Every setting that the schedulers read and that is not beyond these samplers, with its other values."""
    yes_or_no = st.booleans()
    return st.fixed_dictionaries(
        {
            "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
            "beta_start": st.sampled_from([0.0001, 0.00085]),
            "prediction_type": st.sampled_from(["epsilon", "v_prediction", "sample"]),
            "timestep_spacing": st.sampled_from(["leading", "trailing", "linspace"]),
            "steps_offset": st.sampled_from([0, 1]),
            "rescale_betas_zero_snr": yes_or_no,
            "set_alpha_to_one": yes_or_no,
            "clip_sample": yes_or_no,
            "clip_sample_range": st.sampled_from([0.5, 1.0]),
            "variance_type": st.sampled_from([None, "fixed_small", "fixed_large"]),
            "timestep_type": st.sampled_from(["discrete", "continuous"]),
            "interpolation_type": st.sampled_from(["linear", "log_linear"]),
            "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
            "solver_order": st.sampled_from([1, 2]),
            "solver_type": st.sampled_from(["midpoint", "heun"]),
            "lower_order_final": yes_or_no,
            "euler_at_final": yes_or_no,
            "timestep_scaling": st.sampled_from([1.0, 10.0]),
        }
    ).map(lambda changes: {**CONFIG, **{k: v for k, v in changes.items() if v is not None}})


@given(
    name=st.sampled_from(["DPMSolverMultistepScheduler", *KNOWN]),
    config=configurations(),
    steps=st.integers(1, 25),
    strength=st.floats(0.05, 1.0),
    from_image=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_whatever_the_configuration_says_a_trajectory_is_diffusers_own(
    name: str, config: dict[str, Any], steps: int, strength: float, from_image: bool
) -> None:
    image = an_image() if from_image else None
    strength = strength if from_image else 1.0
    assume(int(steps * strength) >= 1)
    trajectory = trajectory_of(name, config, steps, strength)
    theirs = [] if trajectory is None else list(by_diffusers(name, config, steps, strength, image, seed=5))
    # Nor where diffusers' own single precision ends in a root of less than nothing.
    assume(trajectory is not None and all(their.isfinite().all() for their in theirs))
    assert trajectory is not None
    assert_alike(by_us(trajectory, image, seed=5), theirs)


@pytest.mark.parametrize(
    ("name", "beyond"),
    [
        ("ddim", {"thresholding": True}),
        ("ddpm", {"thresholding": True}),
        ("ddpm", {"variance_type": "learned_range"}),
        ("lcm", {"thresholding": True}),
        ("dpm++_2m", {"thresholding": True}),
        ("dpm++_2m", {"variance_type": "learned"}),
        ("dpm++_2m", {"prediction_type": "flow_prediction"}),
        ("dpm++_2m", {"use_flow_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        ("euler_a", {"prediction_type": "sample"}),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("pndm", {}),
        ("unipc", {}),
        ("heun", {}),
        ("dpm++_sde", {}),
    ],
)
def test_what_the_steps_cannot_express_has_no_trajectory(name: str, beyond: dict[str, Any]) -> None:
    assert trajectory_of(name, {**CONFIG, **beyond}, 5) is None


@pytest.mark.parametrize(("name", "steps"), [("lcm", 51), ("ddim", 1001), ("ddim", 1000)])
def test_steps_that_diffusers_refuses_have_no_trajectory(name: str, steps: int) -> None:
    assert trajectory_of(name, CONFIG, steps) is None


def test_without_a_name_the_models_own_sampler_is_meant() -> None:
    ours, named = trajectory_of(None, CONFIG, 7), trajectory_of("dpm++_2m", CONFIG, 7)
    assert ours is not None
    assert named is not None
    assert torch.equal(ours.coefficients, named.coefficients)


@given(
    places=st.lists(
        st.tuples(st.sampled_from(KNOWN), st.integers(1, 9), st.integers(0, 8)), min_size=1, max_size=8
    )
)
@settings(max_examples=50, deadline=None)
def test_in_a_batch_each_picture_takes_its_own_step(places: list[tuple[str, int, int]]) -> None:
    rows = []
    for seed, (name, steps, step) in enumerate(places):
        trajectory = trajectory_of(name, CONFIG, steps)
        assert trajectory is not None
        generator = torch.Generator().manual_seed(seed)
        x, output, x0, noise = torch.randn((4, *SHAPE), generator=generator)
        rows.append((x, output, x0, noise, trajectory.coefficients[step % len(trajectory)]))
    x, output, x0, noise, coefficients = (torch.stack(parts) for parts in zip(*rows, strict=True))
    together = take_step(x, output, x0, noise, coefficients)
    for number, row in enumerate(rows):
        alone = take_step(*(part[None] for part in row))
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.allclose(ours[number], theirs[0], rtol=1e-6, atol=1e-6)


def test_a_step_in_half_precision_is_computed_in_single() -> None:
    trajectory = trajectory_of("euler", CONFIG, 5)
    assert trajectory is not None
    x, output, x0 = torch.randn((3, 1, *SHAPE), generator=torch.Generator().manual_seed(2)).bfloat16()
    halves = take_step(x, output, x0, None, trajectory.coefficients[:1])
    singles = take_step(x.float(), output.float(), x0.float(), None, trajectory.coefficients[:1])
    assert all(torch.equal(half, single) for half, single in zip(halves, singles, strict=True))


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
    [*((name, False) for name in KNOWN), *((name, True) for name in ("ddim", "dpm++_2m", "euler_a"))],
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
    x0 = torch.zeros_like(x)
    for index, draws in enumerate(trajectory.noise_steps):
        scaled = torch.cat([x, x]) * trajectory.model_scale[index]
        without, given_text = pipeline.unet(scaled, trajectory.timesteps[index], embeddings).sample.chunk(2)
        output = without + 4.0 * (given_text - without)
        step_noise = noise.draw(trajectory.noise_dtype) if draws else None
        x, x0 = take_step(x, output, x0, step_noise, trajectory.coefficients[index : index + 1])
    return x
