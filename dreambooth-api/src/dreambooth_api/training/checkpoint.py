"""A training's state in memory, and its way into a `checkpoint_folder` and back. Nothing is pickled."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enlight_common.files import sha256_of
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth_api.training import checkpoint_folder
from dreambooth_api.training.checkpoint_folder import PARTS, NotWhole, State, file_name


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` steps. `extra` is plain JSON: options, the schedule's and the gradient
    scaler's state.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder/checkpoint-<step>` and remove all but the newest two. Raises OSError, e.g. on a full
    disk.
    """
    staged = checkpoint_folder.stage(folder, checkpoint.step)
    try:
        files = {}
        for part in PARTS:
            path = staged / file_name(part)
            tensors: dict[str, Tensor] = getattr(checkpoint, part)
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.name] = checkpoint_folder.File(size=path.stat().st_size, sha256=sha256_of(path))
        checkpoint_folder.write_state(
            staged, State(step=checkpoint.step, files=files, extra=checkpoint.extra)
        )
        return checkpoint_folder.commit(staged, checkpoint.step)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are removed, None when none is left."""
    checkpoint_folder.clear_staged(folder)
    for path in checkpoint_folder.all_in(folder):
        with contextlib.suppress(OSError, NotWhole, SafetensorError):
            return _load(path)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _load(path: Path) -> Checkpoint:
    state = checkpoint_folder.check(path)
    tensors = {part: load_file(path / file_name(part)) for part in PARTS}
    return Checkpoint(step=state.step, extra=state.extra, **tensors)
