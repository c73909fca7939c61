"""Every sampler's steps are its diffusers scheduler's own, alone and in a batch of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from dreambooth_api.inference.samplers import PictureNoise, Trajectory, take_step, trajectory_of
from dreambooth_api.inference.samplers.step import MAX_EARLIER
from dreambooth_api.inference.schedulers import make_scheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from samplers_parts import CONFIG, KNOWN, NOISY, stepped
from torch import Tensor

#: Those that diffusers does not have for models which predict x0.
NOT_OF_X0 = ("euler_a", "pndm")
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
    if name in ("pndm", "heun"):
        # Where no signal is left, they subtract numbers in the ten thousands from each other.
        noise = noise.double()
    if name == "pndm":
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    if hasattr(scheduler, "set_begin_index"):
        # Also for a picture from text, where diffusers would leave out the first of two equal timesteps, as
        # Karras's sigmas have them, and fail one step too late.
        scheduler.set_begin_index(first * scheduler.order)
    timesteps = scheduler.timesteps[first * scheduler.order :]
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
    yield x
    yield from stepped(trajectory, x, noise, made_up_model)


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
            if name in NOT_OF_X0 and prediction == "sample":
                assert trajectory is None, "diffusers has no such sampler"
                continue
            if (name, spacing, steps, strength) == ("heun", "linspace", 2, 1.0):
                assert trajectory is None, "all noise in one step, which single precision is too short for"
                continue
            assert trajectory is not None
            assert trajectory.counted == int(steps * strength)
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
        ("pndm", {"prediction_type": "sample"}),
        (None, {"_class_name": "PNDMScheduler", "skip_prk_steps": False}),
        ("heun", {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}),
        ("unipc", {}),
        ("deis", {}),
        ("dpm2", {}),
        ("dpm++_sde", {}),
    ],
)
def test_what_the_steps_cannot_express_has_no_trajectory(name: str | None, beyond: dict[str, Any]) -> None:
    assert trajectory_of(name, {**CONFIG, **beyond}, 5) is None


@pytest.mark.parametrize(("name", "steps"), [("lcm", 51), ("ddim", 1001), ("ddim", 1000), ("pndm", 1000)])
def test_steps_that_diffusers_refuses_have_no_trajectory(name: str, steps: int) -> None:
    assert trajectory_of(name, CONFIG, steps) is None


@pytest.mark.parametrize(("name", "calls"), [("ddim", 7), ("pndm", 8), ("heun", 13)])
def test_some_samplers_call_the_model_more_often_than_steps_are_counted(name: str, calls: int) -> None:
    trajectory = trajectory_of(name, CONFIG, 7)
    assert trajectory is not None
    assert (len(trajectory), trajectory.counted) == (calls, 7)


def test_only_pndm_takes_earlier_outputs() -> None:
    taking = {name: trajectory_of(name, CONFIG, 9) for name in KNOWN}
    assert [name for name, one in taking.items() if one is not None and one.earlier_outputs] == ["pndm"]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_sampler_that_stable_diffusion_comes_with_has_a_trajectory(prediction: str) -> None:
    config = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "clip_sample": False,
        "prediction_type": prediction,
    }
    trajectory = trajectory_of(None, config, 50)
    assert trajectory is not None
    assert_alike(by_us(trajectory, None, seed=3), by_diffusers(None, config, 50, 1.0, None, seed=3))


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
        parts = torch.randn((4 + MAX_EARLIER, *SHAPE), generator=generator)
        rows.append((*parts, trajectory.coefficients[step % len(trajectory)]))

    def taken(x: Tensor, output: Tensor, x0: Tensor, noise: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        *earlier, coefficients = others
        return take_step(x, output, x0, earlier, noise, coefficients)

    together = taken(*(torch.stack(parts) for parts in zip(*rows, strict=True)))
    for number, row in enumerate(rows):
        alone = taken(*(part[None] for part in row))
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.allclose(ours[number], theirs[0], rtol=1e-6, atol=1e-6)


def test_a_step_in_half_precision_is_computed_in_single() -> None:
    trajectory = trajectory_of("euler", CONFIG, 5)
    assert trajectory is not None
    x, output, x0 = torch.randn((3, 1, *SHAPE), generator=torch.Generator().manual_seed(2)).bfloat16()
    halves = take_step(x, output, x0, [output], None, trajectory.coefficients[:1])
    single = output.float()
    singles = take_step(x.float(), single, x0.float(), [single], None, trajectory.coefficients[:1])
    assert all(torch.equal(half, single) for half, single in zip(halves, singles, strict=True))
