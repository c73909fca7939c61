"""A run's checkpoints in the object store, where another machine finds them when this one is gone.

    checkpoints/<tenant>/<identity>/<step, nine digits>-<writer>/<file>      see `checkpoint_folder`

`state.json` is put last, so that what was cut short is no checkpoint. Several machines may believe that the
run is theirs: one that was frozen and woke up, and the one that took it over. Each writes under a name of its
own, and whatever is whole is a state of the same training, so the highest step is the one to go on from.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from enlight_common.errors import NoSuchObject, StorageFull, StoreCorrupt
from enlight_common.files import free_bytes
from enlight_common.ids import ID_PATTERN, check_id
from enlight_common.storage import ObjectStore

from dreambooth_api.training import checkpoint_folder
from dreambooth_api.training.checkpoint_folder import KEEP, MAX_STATE_BYTES, STATE, NotWhole, State

_log = logging.getLogger(__name__)

_ROOT = "checkpoints"
_SLOT = re.compile(rf"(\d{{9}})-({ID_PATTERN})")
_LISTINGS = 3  # a checkpoint may be removed while it is fetched, because there is a newer one
_ABANDONED_AFTER_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Slot:
    """Where one writer keeps the checkpoint of one step."""

    prefix: str
    step: int
    writer: str

    def key(self, name: str) -> str:
        return f"{self.prefix}{self.step:09d}-{self.writer}/{name}"


class CheckpointStore:
    """The checkpoints of one run. Every method may raise StoreUnavailable and StoreDenied."""

    def __init__(self, objects: ObjectStore, tenant: str, identity: str) -> None:
        self._objects = objects
        self._prefix = f"{_ROOT}/{check_id(tenant, 'tenant')}/{check_id(identity, 'identity')}/"

    def put(self, step: int, writer: str, files: Mapping[str, BinaryIO], state: BinaryIO) -> None:
        """Keep a checkpoint, then remove those that it makes superfluous: all but the two of the highest
        steps, and this one. Each file is open and stands at its beginning. Raises StorageFull, StoreCorrupt.
        """
        slot = Slot(self._prefix, step, check_id(writer, "writer"))
        for name, file in files.items():
            self._put(slot.key(name), file)
        self._put(slot.key(STATE), state)
        self._remove_superfluous(slot)

    def _put(self, key: str, file: BinaryIO) -> None:
        size = file.seek(0, 2)
        file.seek(0)
        self._objects.put(key, file, size)

    def fetch(self, folder: Path, above: int) -> int | None:
        """Put the newest whole checkpoint of more than `above` steps into `folder`, as one of its own, and
        return its step; None when there is none. Damaged ones are passed over. Raises StorageFull, OSError.
        """
        passed_over: set[Slot] = set()
        for _ in range(_LISTINGS):
            fresh = [slot for slot in self._whole() if slot.step > above and slot not in passed_over]
            if not fresh:
                return None
            for slot in fresh:
                try:
                    return self._fetch(slot, folder)
                except (NoSuchObject, StoreCorrupt, NotWhole) as error:
                    _log.warning("a checkpoint is passed over: %s", error, extra={"step": slot.step})
                    passed_over.add(slot)
        return None

    def _fetch(self, slot: Slot, folder: Path) -> int:
        state = checkpoint_folder.read_state(self._objects.read(slot.key(STATE), MAX_STATE_BYTES), slot.step)
        if sum(file.size for file in state.files.values()) > free_bytes(folder):
            raise StorageFull("there is no room on the disk for the training's checkpoint")
        staged = checkpoint_folder.stage(folder, slot.step)
        try:
            self._fetch_files(slot, state, staged)
            checkpoint_folder.commit(staged, slot.step)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return slot.step

    def _fetch_files(self, slot: Slot, state: State, staged: Path) -> None:
        for name, expected in state.files.items():
            with (staged / name).open("w+b") as target:
                self._objects.get(slot.key(name), target, size=expected.size)
        checkpoint_folder.check_files(staged, state)
        # By the same rule as everywhere: it counts from when this is there.
        checkpoint_folder.write_state(staged, state)

    def remove(self) -> None:
        """Forget the run: it was published, or given up."""
        for slot, names in self._slots().items():
            self._remove(slot, names)

    def _whole(self) -> list[Slot]:
        """The highest step first."""
        whole = [slot for slot, names in self._slots().items() if STATE in names]
        return sorted(whole, key=lambda slot: (slot.step, slot.writer), reverse=True)

    def _slots(self) -> dict[Slot, set[str]]:
        """The names of each slot's objects."""
        found: dict[Slot, set[str]] = defaultdict(set)
        for entry in self._objects.list(self._prefix):
            name, _, file = entry.key.removeprefix(self._prefix).partition("/")
            if match := _SLOT.fullmatch(name):
                found[Slot(self._prefix, int(match[1]), match[2])].add(file)
        return found

    def _remove_superfluous(self, mine: Slot) -> None:
        slots = self._slots()
        whole = sorted((slot for slot in slots if STATE in slots[slot]), key=lambda slot: slot.step)
        keep = {mine, *whole[-KEEP:]}
        lowest = min(slot.step for slot in keep)
        for slot, names in slots.items():
            # What has no state may be on its way, and worth its while if it is newer.
            if slot not in keep and (slot in whole or slot.step < lowest):
                self._remove(slot, names)

    def _remove(self, slot: Slot, names: set[str]) -> None:
        for name in sorted(names, key=lambda name: name != STATE):  # what says that it is whole goes first
            self._objects.delete(slot.key(name))


@dataclass(frozen=True)
class SharedCheckpoints:
    """The object store behind `url`, where other machines find the checkpoints of runs with a lease, or with
    `always` of all runs.
    """

    url: str
    objects: ObjectStore
    always: bool = False

    def of(self, tenant: str, identity: str) -> CheckpointStore:
        return CheckpointStore(self.objects, tenant, identity)


def sweep(objects: ObjectStore, older_than_s: float = _ABANDONED_AFTER_S) -> int:
    """Delete the checkpoints of runs that nobody has added to for so long; how many runs there were.

    Raises StoreUnavailable, StoreDenied.
    """
    newest: dict[str, float] = {}
    for key, modified in _objects_of_runs(objects):
        run = "/".join(key.split("/")[:3]) + "/"
        newest[run] = max(newest.get(run, 0.0), modified)
    before = time.time() - older_than_s
    old = [run for run, modified in newest.items() if modified < before]
    for run in old:
        for found in list(objects.list(run)):
            objects.delete(found.key)
    return len(old)


def _objects_of_runs(objects: ObjectStore) -> Iterator[tuple[str, float]]:
    for found in objects.list(f"{_ROOT}/"):
        if len(found.key.split("/")) == 5:
            yield found.key, found.modified
