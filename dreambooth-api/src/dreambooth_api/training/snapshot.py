"""Between a training's moving parts and a checkpoint: everything that changes from step to step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from enlight_common.errors import StorageFull
from enlight_common.files import bytes_under, free_bytes
from torch import Tensor

from dreambooth_api.training import checkpoint
from dreambooth_api.training.checkpoint import Checkpoint
from dreambooth_api.training.checkpoint_folder import KEEP
from dreambooth_api.training.options import TrainingOptions
from dreambooth_api.training.setup import Setup

_COPIES = 3  # the weights and AdamW's two moments
_OVERHEAD_BYTES = 16_000_000  # the generators, the shuffles, JSON


@dataclass
class Position:
    """How far a training is: steps done, seconds they took, and a smoothed loss to report at the end."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0


def save(folder: Path, setup: Setup, options: TrainingOptions, position: Position) -> Path:
    """Write a checkpoint of the state after `position.step` steps, and tell where."""
    parameters = setup.learner.parameters()
    scaler = setup.accelerator.scaler
    extra = {
        "options": options.model_dump(mode="json"),
        "schedule": {"name": options.lr_scheduler, "step": position.step},  # a pure function of the step
        "scaler": None if scaler is None else scaler.state_dict(),
        "position": asdict(position),
    }
    return checkpoint.save(
        folder,
        Checkpoint(
            step=position.step,
            weights={name: parameter.data for name, parameter in parameters.items()},
            optimizer=_moments(setup.optimizer, list(parameters)),
            random={**setup.randomness.state(), **setup.material.state()},
            extra=extra,
        ),
    )


def check_room(folder: Path, setup: Setup, options: TrainingOptions, first: int, *, held: int = 0) -> None:
    """Raise StorageFull now if the checkpoints that will be there at once, and the result, do not fit the
    disk under `folder`, rather than after hours of training. `held` more are kept for a while by who reads
    them.
    """
    weights = sum(
        parameter.numel() * parameter.element_size() for parameter in setup.learner.parameters().values()
    )
    size = weights * _COPIES + _OVERHEAD_BYTES
    there = bytes_under(folder)
    to_come = (options.steps - 1) // options.checkpoint_interval - first // options.checkpoint_interval
    # One at least, for a stop; one more than are kept is there while the newest is being written.
    needed = size * min(max(to_come, 1) + there // size, KEEP + 1 + held) - there
    free = free_bytes(folder)
    if free < needed:
        raise StorageFull(
            f"the training's checkpoints need {needed / 1e6:.0f} MB of disk, and {free / 1e6:.0f} MB are free"
        )


def restore(folder: Path, setup: Setup) -> Position:
    """Put back the newest whole checkpoint, if there is one, and tell where it was."""
    saved = checkpoint.load_newest(folder)
    if saved is None:
        return Position()
    setup.learner.load(saved.weights)
    _put_back_moments(setup.optimizer, list(setup.learner.parameters()), saved.optimizer)
    setup.randomness.restore(saved.random)
    setup.material.restore(saved.random)
    if setup.accelerator.scaler is not None and saved.extra["scaler"]:
        setup.accelerator.scaler.load_state_dict(saved.extra["scaler"])
    return Position(**saved.extra["position"])


def _moments(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's state as `<parameter>/<moment>`."""
    return {
        f"{names[index]}/{key}": torch.as_tensor(value)
        for index, moments in optimizer.state_dict()["state"].items()
        for key, value in moments.items()
    }


def _put_back_moments(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    number = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        state.setdefault(number[name], {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
