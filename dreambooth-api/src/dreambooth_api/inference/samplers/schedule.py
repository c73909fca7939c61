"""What a sampler's formulas give, in float64, and what all of them take from a diffusers scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dreambooth_api.inference.samplers.step import StepCoefficients

#: Variances of a scheduler's configuration that the model does not predict. None, which a configuration that
#: was a DPM-Solver's has, is taken for the small one by diffusers' DDPM.
UNLEARNED = (None, "fixed_small", "fixed_large")


@dataclass(frozen=True)
class Schedule:
    """The steps from the first taken to the last; the fields are ``Trajectory``'s."""

    timesteps: Sequence[float]
    model_scale: Sequence[float]
    coefficients: Sequence[StepCoefficients]
    start_scale: float
    image_scale: float
    noise_scale: float
    noise_dtype: torch.dtype | None = None


def x0_terms(prediction: str, alpha: float, sigma: float) -> tuple[float, float] | None:
    """How x0 comes from x and the model's output, where x = alpha · x0 + sigma · noise and the model sees
    x / sqrt(alpha² + sigma²); None for predictions other than of the noise, of v and of x0 itself.
    Raises ZeroDivisionError for the noise where no signal is left, since no x0 can be had from it then.

    v is that of Salimans and Ho (arXiv 2202.00512), alpha · noise − sigma · x0 at alpha² + sigma² = 1.
    """
    length = math.hypot(alpha, sigma)
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    if prediction == "v_prediction":
        return alpha / length**2, -sigma / length
    if prediction == "sample":
        return 0.0, 1.0
    return None


def has_only(scheduler: Any, **required: Any) -> bool:
    """Whether each of these of the scheduler's settings has one of the given values."""
    return all(scheduler.config.get(name) in allowed for name, allowed in required.items())


def x0_bound(scheduler: Any) -> float:
    """What x0 is clipped to."""
    return float(scheduler.config.clip_sample_range) if scheduler.config.get("clip_sample") else math.inf
