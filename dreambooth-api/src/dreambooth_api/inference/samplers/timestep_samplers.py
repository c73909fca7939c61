"""Samplers that count in timesteps of the training's noise schedule: DDIM, DDPM, PNDM, LCM.

Latents keep variance 1: x = sqrt(a) · x0 + sqrt(1 − a) · noise, with a the schedule's ``alphas_cumprod``.
Each function takes a diffusers scheduler whose timesteps are set, and the index of the first step to take.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dreambooth_api.inference.samplers.schedule import (
    UNLEARNED,
    Schedule,
    has_only,
    x0_bound,
    x0_terms,
)
from dreambooth_api.inference.samplers.step import StepCoefficients

_PREDICTIONS = ("epsilon", "v_prediction", "sample")
#: Weights of the outputs in their mean, the latest first, by how many there are.
_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def ddim(scheduler: Any, first: int) -> Schedule | None:
    """DDIM without noise (eta 0), as pipelines run it: formulas 12 and 16 of arXiv 2010.02502."""
    if not has_only(scheduler, thresholding=[False], prediction_type=_PREDICTIONS):
        return None
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps

    def step(index: int, timestep: int, alpha_squared: float) -> StepCoefficients:
        alpha_next, sigma_next = _levels(_alpha_squared(scheduler, timestep - stride))
        x0_from_x, x0_from_output = _x0_terms(scheduler, alpha_squared)
        noise_from_x, noise_from_output = _noise_terms(scheduler, alpha_squared)
        return StepCoefficients(
            x0_from_x,
            x0_from_output,
            next_from_x=sigma_next * noise_from_x,
            next_from_x0=alpha_next,
            next_from_output=sigma_next * noise_from_output,
            x0_bound=x0_bound(scheduler),
        )

    return _schedule(scheduler, first, step)


def ddpm(scheduler: Any, first: int) -> Schedule | None:
    """Ancestral sampling: formulas 6, 7 and 15 of arXiv 2006.11239."""
    if not has_only(scheduler, thresholding=[False], prediction_type=_PREDICTIONS, variance_type=UNLEARNED):
        return None
    timesteps = scheduler.timesteps.tolist()

    def step(index: int, timestep: int, alpha_squared: float) -> StepCoefficients:
        after = float(scheduler.alphas_cumprod[timesteps[index + 1]]) if index + 1 < len(timesteps) else 1.0
        kept = alpha_squared / after
        variance = (1 - after) / (1 - alpha_squared) * (1 - kept)
        if scheduler.config.variance_type == "fixed_large":
            variance = 1 - kept
        x0_from_x, x0_from_output = _x0_terms(scheduler, alpha_squared)
        return StepCoefficients(
            x0_from_x,
            x0_from_output,
            next_from_x=math.sqrt(kept) * (1 - after) / (1 - alpha_squared),
            next_from_x0=math.sqrt(after) * (1 - kept) / (1 - alpha_squared),
            next_from_noise=math.sqrt(variance) if timestep > 0 else 0.0,
            x0_bound=x0_bound(scheduler),
        )

    return _schedule(scheduler, first, step)


def pndm(scheduler: Any, first: int) -> Schedule | None:
    """PNDM without its Runge-Kutta start (PLMS): formulas 9 and 12 of arXiv 2202.09778.

    A step of DDIM with the mean of the present output and up to three before it. The first is Heun's, and
    takes two calls of the model: the second starts where the first did, with the mean of both outputs, and
    its own is no part of later means.
    """
    if not has_only(scheduler, skip_prk_steps=[True], prediction_type=("epsilon", "v_prediction")):
        return None
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    begin = int(scheduler.timesteps[first])

    def moved(start: int, end: int) -> tuple[float, float]:
        """How latents at timestep *end* come from those at *start* and from the mean output."""
        alpha_squared = _alpha_squared(scheduler, start)
        alpha, sigma = _levels(alpha_squared)
        alpha_next, sigma_next = _levels(_alpha_squared(scheduler, end))
        noise_from_x, noise_from_output = _noise_terms(scheduler, alpha_squared)
        from_noise = sigma_next - alpha_next * sigma / alpha
        return alpha_next / alpha + from_noise * noise_from_x, from_noise * noise_from_output

    def step(index: int, timestep: int, alpha_squared: float) -> StepCoefficients:
        call = index - first
        if call == 1:
            from_x, from_output = moved(timestep + stride, timestep)
            # Where the first call started, from where it led.
            led_from_x, led_from_output = moved(begin, begin - stride)
            from_x /= led_from_x
            from_outputs = [from_output / 2, from_output / 2 - from_x * led_from_output]
        else:
            from_x, from_output = moved(timestep, timestep - stride)
            meant = [ago for ago in range(call + 1) if ago != call - 1][: max(_ADAMS_BASHFORTH)]
            from_outputs = [0.0] * (meant[-1] + 1)
            for ago, weight in zip(meant, _ADAMS_BASHFORTH[len(meant)], strict=True):
                from_outputs[ago] = from_output * weight
        return StepCoefficients(
            *_x0_terms(scheduler, alpha_squared),
            next_from_x=from_x,
            next_from_x0=0.0,
            next_from_output=from_outputs[0],
            next_from_earlier=tuple(from_outputs[1:]),
        )

    return _schedule(scheduler, first, step)


def lcm(scheduler: Any, first: int) -> Schedule | None:
    """Multistep consistency sampling, with the boundary conditions of arXiv 2310.04378."""
    if not has_only(scheduler, thresholding=[False], prediction_type=_PREDICTIONS):
        return None
    timesteps = scheduler.timesteps.tolist()
    data_variance = 0.5**2

    def step(index: int, timestep: int, alpha_squared: float) -> StepCoefficients:
        is_last = index == len(timesteps) - 1
        next_squared = 1.0 if is_last else _alpha_squared(scheduler, timesteps[index + 1])
        alpha_next, sigma_next = _levels(next_squared)
        scaled = timestep * scheduler.config.timestep_scaling
        skip = data_variance / (scaled**2 + data_variance)
        out = scaled / math.sqrt(scaled**2 + data_variance)
        x0_from_x, x0_from_output = _x0_terms(scheduler, alpha_squared)
        return StepCoefficients(
            x0_from_x,
            x0_from_output,
            next_from_x=alpha_next * skip,
            next_from_x0=alpha_next * out,
            next_from_noise=sigma_next,
            x0_bound=x0_bound(scheduler),
        )

    return _schedule(scheduler, first, step)


def _schedule(
    scheduler: Any, first: int, step: Callable[[int, int, float], StepCoefficients]
) -> Schedule | None:
    timesteps = [int(timestep) for timestep in scheduler.timesteps]
    taken = timesteps[first:]
    if not taken:
        return None
    image_scale, noise_scale = _levels(_alpha_squared(scheduler, taken[0]))
    return Schedule(
        timesteps=taken,
        model_scale=[1.0] * len(taken),
        coefficients=[
            step(index, timestep, _alpha_squared(scheduler, timestep))
            for index, timestep in enumerate(timesteps)
            if index >= first
        ],
        start_scale=float(scheduler.init_noise_sigma),
        image_scale=image_scale,
        noise_scale=noise_scale,
    )


def _alpha_squared(scheduler: Any, timestep: int) -> float:
    return float(scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod)


def _levels(alpha_squared: float) -> tuple[float, float]:
    """Signal and noise."""
    return math.sqrt(alpha_squared), math.sqrt(1 - alpha_squared)


def _x0_terms(scheduler: Any, alpha_squared: float) -> tuple[float, float]:
    terms = x0_terms(scheduler.config.prediction_type, *_levels(alpha_squared))
    assert terms is not None, "predictions were checked"
    return terms


def _noise_terms(scheduler: Any, alpha_squared: float) -> tuple[float, float]:
    """How the noise in x comes from x and the model's output, whatever x0 is clipped to."""
    alpha, sigma = _levels(alpha_squared)
    return {"epsilon": (0.0, 1.0), "v_prediction": (sigma, alpha), "sample": (1 / sigma, -alpha / sigma)}[
        scheduler.config.prediction_type
    ]
