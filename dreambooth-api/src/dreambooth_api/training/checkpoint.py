"""A training's state on the disk: a folder `checkpoint-<step>` of safetensors and JSON that is there whole
or not.

`weights` has what is trained, `optimizer` AdamW's moments, `random` the generators and the shuffles;
`state.json` has the rest and, written last, the size and sha256 of each file. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enlight_common.files import fsync_folder, read_json, sha256_of, write_json
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_NAME = re.compile(r"checkpoint-(\d{1,9})")
_FILES = ("weights", "optimizer", "random")
KEEP = 2  # the newest, and the one before it in case the newest is damaged


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
    target = folder / f"checkpoint-{checkpoint.step}"
    staged = folder / f".{target.name}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        files = {}
        for name in _FILES:
            path = staged / f"{name}.safetensors"
            tensors: dict[str, Tensor] = getattr(checkpoint, name)
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        state = {"schema_version": 1, "step": checkpoint.step, "files": files, "extra": checkpoint.extra}
        write_json(staged / "state.json", state)
        shutil.rmtree(target, ignore_errors=True)
        staged.rename(target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    fsync_folder(folder)
    for old in _checkpoints(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are removed, None when none is left."""
    for leftover in folder.glob(".checkpoint-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in _checkpoints(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return _load(path)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _load(path: Path) -> Checkpoint:
    """Raises one of the errors that `load_newest` names for whatever is missing, cut short or altered."""
    state = read_json(path / "state.json")
    tensors = {}
    for name in _FILES:
        file, expected = path / f"{name}.safetensors", state["files"][f"{name}.safetensors"]
        if file.stat().st_size != expected["size"] or sha256_of(file) != expected["sha256"]:
            raise ValueError(f"{file.name} is not what was written")
        tensors[name] = load_file(file)
    if path.name != f"checkpoint-{state['step']}":
        raise ValueError("the state is another step's")
    return Checkpoint(step=state["step"], extra=state["extra"], **tensors)
