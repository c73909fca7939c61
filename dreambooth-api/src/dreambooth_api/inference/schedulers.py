"""Samplers by the names the field uses, made from the base model's own noise schedule.

A diffusers class name stands for that class with the base model's settings, as
``Class.from_config(pipeline.scheduler.config)`` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from enlight_common.errors import InvalidField


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler class and what its configuration gets on top of the base model's."""

    scheduler: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    #: Most steps the sampler can take; None where only the service's own bound counts.
    max_steps: int | None = None


_MULTISTEP = "DPMSolverMultistepScheduler"
_PLAIN = {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False}
_KARRAS = {**_PLAIN, "use_karras_sigmas": True}
_NOISY = {**_PLAIN, "algorithm_type": "sde-dpmsolver++"}
# Stable Diffusion is always sampled by PNDM without its Runge-Kutta warm-up, which would multiply the
# steps; a base model whose own scheduler is another class does not say so in its configuration.
_PNDM = Sampler("PNDMScheduler", {"skip_prk_steps": True})
# LCM picks its steps out of the 50 it was distilled for (diffusers' `original_inference_steps`).
_LCM = Sampler("LCMScheduler", max_steps=50)

SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler"),
    "ddpm": Sampler("DDPMScheduler"),
    "pndm": _PNDM,
    "euler": Sampler("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler_karras": Sampler("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
    "heun": Sampler("HeunDiscreteScheduler"),
    "dpm2": Sampler("KDPM2DiscreteScheduler"),
    "dpm2_a": Sampler("KDPM2AncestralDiscreteScheduler"),
    "dpm++_2m": Sampler(_MULTISTEP, _PLAIN),
    "dpm++_2m_karras": Sampler(_MULTISTEP, _KARRAS),
    "dpm++_2m_sde": Sampler(_MULTISTEP, _NOISY),
    "dpm++_2m_sde_karras": Sampler(_MULTISTEP, {**_NOISY, "use_karras_sigmas": True}),
    "dpm++_sde": Sampler("DPMSolverSinglestepScheduler", _NOISY),
    "deis": Sampler("DEISMultistepScheduler", {"algorithm_type": "deis", "solver_order": 2}),
    "unipc": Sampler("UniPCMultistepScheduler"),
    "lcm": _LCM,
    "DDIMScheduler": Sampler("DDIMScheduler"),
    "DDPMScheduler": Sampler("DDPMScheduler"),
    "DEISMultistepScheduler": Sampler("DEISMultistepScheduler", {"algorithm_type": "deis"}),
    "DPMSolverMultistepScheduler": Sampler(_MULTISTEP),
    "DPMSolverSinglestepScheduler": Sampler("DPMSolverSinglestepScheduler"),
    "EulerAncestralDiscreteScheduler": Sampler("EulerAncestralDiscreteScheduler"),
    "EulerDiscreteScheduler": Sampler("EulerDiscreteScheduler"),
    "HeunDiscreteScheduler": Sampler("HeunDiscreteScheduler"),
    "KDPM2AncestralDiscreteScheduler": Sampler("KDPM2AncestralDiscreteScheduler"),
    "KDPM2DiscreteScheduler": Sampler("KDPM2DiscreteScheduler"),
    "LCMScheduler": _LCM,
    "PNDMScheduler": _PNDM,
    "UniPCMultistepScheduler": Sampler("UniPCMultistepScheduler"),
}


def sampler_named(name: str) -> Sampler:
    """The sampler of that name.

    Raises:
        InvalidField: no such sampler; the detail lists those there are.
    """
    sampler = SAMPLERS.get(name)
    if sampler is None:
        raise InvalidField("scheduler", f"must be one of {', '.join(SAMPLERS)}")
    return sampler


def make_scheduler(name: str | None, config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler: *name*'s, or the one *config* is of where *name* is None.

    *config* is the base model's scheduler configuration (its ``_class_name`` included): betas,
    prediction type and spacing come from there. Schedulers carry a drawing's state, hence fresh.
    """
    import diffusers

    sampler = Sampler(str(config["_class_name"])) if name is None else sampler_named(name)
    scheduler_class = getattr(diffusers, sampler.scheduler)
    return scheduler_class.from_config(config, **sampler.overrides)
