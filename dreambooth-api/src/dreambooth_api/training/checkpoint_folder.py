"""How a checkpoint lies on a disk or in an object store: three files, and `state.json`, which lists them and
is written last.

    checkpoint-<step>/weights.safetensors      what is trained
                      optimizer.safetensors    AdamW's moments
                      random.safetensors       the generators and the shuffles
                      state.json               a `State`

What has no `state.json`, or files that are not as it says, is no checkpoint. Nothing here reads a tensor.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from enlight_common.files import fsync_folder, sha256_of, write_json
from pydantic import BaseModel, ConfigDict, Field, ValidationError

PARTS = ("weights", "optimizer", "random")
STATE = "state.json"
KEEP = 2  # the newest, and the one before it in case the newest is damaged
MAX_STATE_BYTES = 1_000_000  # the options with 64 captions of 1,000 characters, and room

_NAME = re.compile(r"checkpoint-(\d{1,9})")
_STRICT = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class NotWhole(Exception):
    """A checkpoint is not there, cut short or altered."""


class File(BaseModel):
    """Size in bytes and SHA-256 of a file."""

    model_config = _STRICT

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class State(BaseModel):
    """`extra` is plain JSON: options, the schedule's and the gradient scaler's state, the position."""

    model_config = _STRICT

    schema_version: Literal[1] = 1
    step: Annotated[int, Field(ge=0)]
    files: dict[str, File]
    extra: dict[str, Any] = {}


def file_name(part: str) -> str:
    return f"{part}.safetensors"


def read_state(raw: bytes, step: int) -> State:
    """Raises NotWhole for anything but the state of a checkpoint after `step` steps."""
    try:
        state = State.model_validate_json(raw)
    except ValidationError as error:
        raise NotWhole("the state cannot be read") from error
    if state.step != step:
        raise NotWhole("the state is another step's")
    if state.files.keys() != {file_name(part) for part in PARTS}:
        raise NotWhole("the state lists other files")
    return state


def write_state(folder: Path, state: State) -> None:
    write_json(folder / STATE, state.model_dump(mode="json"))


def check(folder: Path) -> State:
    """The state of a checkpoint whose files are all as it says. Raises NotWhole, OSError."""
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    state = read_state((folder / STATE).read_bytes(), int(match[1]))
    check_files(folder, state)
    return state


def check_files(folder: Path, state: State) -> None:
    """Raises NotWhole, OSError unless every file is as the state says."""
    for name, expected in state.files.items():
        file = folder / name
        if file.stat().st_size != expected.size or sha256_of(file) != expected.sha256:
            raise NotWhole(f"{name} is not what was written")


def all_in(folder: Path) -> list[Path]:
    """The checkpoints below `folder`, whole or not, newest first."""
    found = [(step_of(path), path) for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return [path for _, path in sorted(found, reverse=True)]


def step_of(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match is not None else 0


def stage(folder: Path, step: int) -> Path:
    """An empty folder in which a checkpoint is put together, until it is `commit`ted."""
    staged = folder / f".checkpoint-{step}.tmp"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    return staged


def commit(staged: Path, step: int) -> Path:
    """Give what was staged its name, and remove all but the newest two."""
    folder = staged.parent
    target = folder / f"checkpoint-{step}"
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    fsync_folder(folder)
    for old in all_in(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def clear_staged(folder: Path) -> None:
    """Remove what a killed writer left."""
    for leftover in folder.glob(".checkpoint-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
