"""What a training tells about itself while it runs: plain dataclasses, one JSON object a line between
processes.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

#: A line longer than this was not written by us.
MAX_LINE_BYTES = 1_000_000

FailureKind = Literal["out-of-memory", "diverged", "storage-full", "base-model", "crash", "killed"]


@dataclass(frozen=True)
class Preparing:
    """Before the first step: `phase` is "starting", "loading", "class images" (`done` of `total`),
    "encoding" or "looking for a checkpoint".
    """

    phase: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Progress:
    """After each step, the first being 1. `loss` is the step's mean; `seconds_left` counts steps only."""

    step: int
    total: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Validation:
    """A picture of the validation prompt, drawn with the weights after `step`; `path` is a PNG."""

    step: int
    path: str


@dataclass(frozen=True)
class Saving:
    """A checkpoint or the result is about to be written: a bad moment to be killed."""

    step: int


@dataclass(frozen=True)
class Checkpointed:
    step: int


@dataclass(frozen=True)
class Stored:
    """The object store has this checkpoint. It comes between others: it is uploaded meanwhile."""

    step: int


@dataclass(frozen=True)
class Finished:
    """`folder` holds the model's files but no manifest; `base_revision` is that of the base really loaded."""

    folder: str
    metrics: dict[str, Any]
    base_revision: str | None = None


@dataclass(frozen=True)
class Failed:
    kind: FailureKind
    detail: str


@dataclass(frozen=True)
class Stopped:
    """Left on request after `step` (0: before the first one), resumable."""

    step: int


Message = Preparing | Progress | Validation | Saving | Checkpointed | Stored | Finished | Failed | Stopped
#: After one of these nothing follows.
Outcome = Finished | Failed | Stopped

_TYPES: dict[str, type[Message]] = {
    kind.__name__.lower(): kind
    for kind in (Preparing, Progress, Validation, Saving, Checkpointed, Stored, Finished, Failed, Stopped)
}


def to_json(message: Message) -> str:
    """One line, without its end. Raises ValueError for NaN and Infinity."""
    return json.dumps(
        {"type": type(message).__name__.lower(), **dataclasses.asdict(message)},
        allow_nan=False,
        ensure_ascii=True,
    )


class NotAMessage(ValueError):
    """A line that none of our processes wrote."""


def from_json(line: str | bytes) -> Message:
    """The message in a line. Raises NotAMessage for anything else."""
    try:
        value = json.loads(line)
        kind = _TYPES[value.pop("type")]
        return kind(**value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotAMessage("not a line of ours") from error
