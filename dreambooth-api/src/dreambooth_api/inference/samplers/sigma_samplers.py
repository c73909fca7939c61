"""Samplers that count in sigmas, noise per signal: Euler, Heun, Euler ancestral, DPM-Solver++.

Each function takes a diffusers scheduler whose timesteps are set, and the index of the first step to take.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from dreambooth_api.inference.samplers.schedule import UNLEARNED, Schedule, has_only, x0_bound, x0_terms
from dreambooth_api.inference.samplers.step import StepCoefficients

#: How much what single precision rounds off x0 may grow in one step: to about 1e-5.
_MOST_GROWTH = 100.0


def euler(scheduler: Any, first: int) -> Schedule | None:
    """Algorithm 2 of arXiv 2206.00364 without churn; x = x0 + sigma · noise."""
    prediction = scheduler.config.prediction_type
    if prediction == "original_sample":  # another name for it, which only this scheduler knows
        prediction = "sample"
    sigmas = _sigmas(scheduler)
    steps = []
    for sigma, following in zip(sigmas[first:-1], sigmas[first + 1 :], strict=True):
        terms = x0_terms(prediction, 1.0, sigma)
        if terms is None:
            return None
        steps.append(StepCoefficients(*terms, following / sigma, 1 - following / sigma))
    return _variance_exploding(scheduler, first, sigmas[first:-1], steps)


def heun(scheduler: Any, first: int) -> Schedule | None:
    """Algorithm 1 of arXiv 2206.00364 without churn; x = x0 + sigma · noise.

    A step is Euler's, and a second call of the model where that led: the step is taken again with the mean of
    the slopes at both of its ends, that is, corrected by what became of x0. The last one has one call.
    """
    if not has_only(scheduler, prediction_type=("epsilon", "v_prediction", "sample")):
        return None
    # Each is there for both calls that see it.
    sigmas = [*_sigmas(scheduler)[first::2], 0.0]
    seen, steps = [], []
    for sigma, following in itertools.pairwise(sigmas):
        ratio = following / sigma
        factors = [(sigma, ratio, 1 - ratio, 0.0)]
        if following > 0:
            bend = (1 / ratio - 1) / 2
            if bend * sigma > _MOST_GROWTH:
                return None
            factors.append((following, 1.0, bend, -bend))
        for at, from_x, from_x0, from_previous in factors:
            terms = x0_terms(scheduler.config.prediction_type, 1.0, at)
            assert terms is not None, "predictions were checked"
            bound = x0_bound(scheduler)
            seen.append(at)
            steps.append(StepCoefficients(*terms, from_x, from_x0, from_previous, x0_bound=bound))
    return _variance_exploding(scheduler, first, seen, steps)


def euler_ancestral(scheduler: Any, first: int) -> Schedule | None:
    """Euler down to less than the next sigma, and noise up to it; x = x0 + sigma · noise."""
    if not has_only(scheduler, prediction_type=("epsilon", "v_prediction")):
        return None
    sigmas = _sigmas(scheduler)
    steps = []
    for sigma, following in zip(sigmas[first:-1], sigmas[first + 1 :], strict=True):
        terms = x0_terms(scheduler.config.prediction_type, 1.0, sigma)
        assert terms is not None, "predictions were checked"
        # down² + up² = following²
        down = following**2 / sigma
        up = following * math.sqrt(1 - (following / sigma) ** 2)
        steps.append(StepCoefficients(*terms, down / sigma, 1 - down / sigma, next_from_noise=up))
    return _variance_exploding(scheduler, first, sigmas[first:-1], steps)


def dpm_solver_multistep(scheduler: Any, first: int) -> Schedule | None:
    """DPM-Solver++ of first and second order, without noise (arXiv 2211.01095) and with (``sde``); latents
    keep variance 1.
    """
    config = scheduler.config
    if config.algorithm_type not in ("dpmsolver++", "sde-dpmsolver++") or not has_only(
        scheduler,
        solver_order=(1, 2),
        thresholding=[False],
        variance_type=UNLEARNED,
        use_flow_sigmas=[False, None],
        prediction_type=("epsilon", "v_prediction", "sample"),
    ):
        return None
    sigmas = _sigmas(scheduler)
    last = len(scheduler.timesteps) - 1
    few = config.lower_order_final and last + 1 < 15
    euler_last = config.euler_at_final or few or config.final_sigmas_type == "zero"
    steps = []
    for index in range(first, last + 1):
        first_order = config.solver_order == 1 or index == first or (index == last and euler_last)
        before = None if first_order else sigmas[index - 1]
        steps.append(_dpm_step(config, before, sigmas[index], sigmas[index + 1]))
    if not steps:
        return None
    image_scale, noise_scale = _levels(sigmas[first])
    return Schedule(
        timesteps=scheduler.timesteps[first:].tolist(),
        model_scale=[1.0] * len(steps),
        coefficients=steps,
        start_scale=float(scheduler.init_noise_sigma),
        image_scale=image_scale,
        noise_scale=noise_scale,
        noise_dtype=torch.float32 if config.algorithm_type == "sde-dpmsolver++" else None,
    )


def _dpm_step(config: Any, before: float | None, sigma: float, following: float) -> StepCoefficients:
    """From *sigma* to *following*, of second order where the sigma *before* is given."""
    alpha, noise_level = _levels(sigma)
    terms = x0_terms(config.prediction_type, alpha, noise_level)
    assert terms is not None, "predictions were checked"
    alpha_next, level_next = _levels(following)
    # exp(−h), with h the step in log(signal / noise).
    decay = following / sigma
    noisy = config.algorithm_type == "sde-dpmsolver++"
    passed = decay**2 if noisy else decay
    from_x0, from_change = alpha_next * (1 - passed), 0.0
    if before is not None:
        h, h_before = -math.log(decay), math.log(before / sigma)
        midpoint = config.solver_type == "midpoint"
        reach = 2 * h if noisy else h
        bend = (1 - passed) / 2 if midpoint else 1 - (1 - passed) / reach
        from_change = alpha_next * bend * h / h_before
    return StepCoefficients(
        *terms,
        next_from_x=level_next / noise_level * (decay if noisy else 1.0),
        next_from_x0=from_x0 + from_change,
        next_from_previous=-from_change,
        next_from_noise=level_next * math.sqrt(1 - passed) if noisy else 0.0,
    )


def _variance_exploding(
    scheduler: Any, first: int, seen: list[float], steps: list[StepCoefficients]
) -> Schedule | None:
    """*steps* with the sigma of the latents that the model sees at each."""
    if not steps:
        return None
    return Schedule(
        timesteps=scheduler.timesteps[first:].tolist(),
        model_scale=[1 / math.hypot(1, sigma) for sigma in seen],
        coefficients=steps,
        start_scale=float(scheduler.init_noise_sigma),
        image_scale=1.0,
        noise_scale=seen[0],
    )


def _sigmas(scheduler: Any) -> list[float]:
    """One for each timestep, and the one after the last."""
    return [float(sigma) for sigma in scheduler.sigmas[: len(scheduler.timesteps) + 1]]


def _levels(sigma: float) -> tuple[float, float]:
    """Signal and noise of latents that keep variance 1."""
    alpha = 1 / math.hypot(1, sigma)
    return alpha, sigma * alpha
