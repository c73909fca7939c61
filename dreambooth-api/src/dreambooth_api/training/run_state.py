"""What is known of a run, and the file by which any instance can tell it."""

from __future__ import annotations

import contextlib
import re
import secrets
from pathlib import Path
from typing import Literal

from enlight_common.errors import NotFound
from enlight_common.files import write_atomically
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreambooth_api.models.artifact import now

INSTANCE = re.compile(r"[a-z][a-z0-9]{0,15}")
RUN_ID = re.compile(r"([a-z][a-z0-9]{0,15})-[0-9a-f]{24}")

#: Why a run is asked to leave. After all but "canceled" it is to be gone on with.
Ending = Literal["canceled", "stopped", "lapsed", "interrupted"]
_REASONS = {
    "stopped": "it was stopped",
    "lapsed": "its lease was not renewed",
    "interrupted": "the service ended",
}

Status = Literal["queued", "processing", "succeeded", "failed", "canceled"]
ErrorKind = Literal[
    "out-of-memory", "diverged", "storage-full", "base-model", "crash", "killed", "interrupted", "publication"
]


class RunState(BaseModel):
    """One moment of a run; `sequence` grows with each. `loss` and the two after it are of the latest step.

    `version` is that of the published model. `error` is for people, `error_kind` for programs. Times are
    RFC 3339. `validation_step` is that of the latest validation picture, see `Trainings.validation_picture`,
    `checkpoint_step` that of the latest checkpoint on the disk, `stored_step` in the object store.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    schema_version: Literal[1] = 1
    run_id: str
    instance: str
    identity: str = Field(pattern="^[0-9a-f]{64}$")
    tenant: str
    model_id: str
    method: Literal["lora", "full"]
    base_model: str
    learning_rate_used: float
    status: Status = "queued"
    phase: str = "queued"
    step: int = 0
    total: int
    loss: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    validation_step: int | None = None
    checkpoint_step: int | None = None
    stored_step: int | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None
    version: str | None = None
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    sequence: int = 1

    @property
    def is_terminal(self) -> bool:
        return self.status in ("succeeded", "failed", "canceled")

    def after(self, **change: object) -> RunState:
        """The next state: `change` and a higher sequence."""
        return self.model_copy(update={**change, "sequence": self.sequence + 1})

    def succeeded(self, version: str) -> RunState:
        return self._ended("succeeded").model_copy(update={"version": version, "step": self.total})

    def failed(self, error: str, kind: ErrorKind) -> RunState:
        return self._ended("failed").model_copy(update={"error": error, "error_kind": kind})

    def interrupted(self, why: Literal["stopped", "lapsed", "interrupted"] = "interrupted") -> RunState:
        """Cut short: the same request goes on with it."""
        error = f"interrupted: {_REASONS[why]}; the same request goes on from the last checkpoint"
        return self.failed(error, "interrupted")

    def canceled(self) -> RunState:
        return self._ended("canceled")

    def _ended(self, status: Status) -> RunState:
        return self.after(status=status, phase=status, seconds_left=None, completed_at=now())


def new_run_id(instance: str) -> str:
    return f"{instance}-{secrets.token_hex(12)}"


class RunFiles:
    """`folder/<run id>.json` for each run of all instances that share the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, state: RunState) -> None:
        """Atomically; synced when it is the run's last word. Raises OSError, StorageFull."""
        write_atomically(self._path(state.run_id), state.model_dump_json(), sync=state.is_terminal)

    def read(self, run_id: str) -> RunState:
        """Raises NotFound for an unknown run and for a file that cannot be read."""
        try:
            state = RunState.model_validate_json(self._path(run_id).read_bytes())
        except (OSError, ValidationError):
            raise NotFound("there is no run of this id") from None
        if state.run_id != run_id:
            raise NotFound("there is no run of this id")
        return state

    def unfinished_of(self, instance: str) -> list[RunState]:
        """The runs that the instance was at when it ended."""
        found = []
        for path in self._folder.glob(f"{instance}-*.json"):
            with contextlib.suppress(NotFound):
                state = self.read(path.stem)
                if state.instance == instance and not state.is_terminal:
                    found.append(state)
        return found

    def prune(self, instance: str, keep: int) -> None:
        """Forget the instance's oldest ended runs beyond `keep`, with their pictures."""
        aged = []
        for path in self._folder.glob(f"{instance}-*.json"):
            with contextlib.suppress(OSError):
                aged.append((path.stat().st_mtime, path))
        aged.sort(reverse=True)
        for _, path in aged[keep:]:
            try:
                if not self.read(path.stem).is_terminal:
                    continue
            except NotFound:
                pass  # unreadable, and as old: of no use to anyone
            path.unlink(missing_ok=True)
            path.with_suffix(".png").unlink(missing_ok=True)

    def picture(self, run_id: str) -> Path:
        """Where the run's latest validation picture is, if it has one. Raises NotFound for what is no run
        id.
        """
        return self._path(run_id).with_suffix(".png")

    def _path(self, run_id: str) -> Path:
        if not RUN_ID.fullmatch(run_id):
            raise NotFound("there is no run of this id")
        return self._folder / f"{run_id}.json"
