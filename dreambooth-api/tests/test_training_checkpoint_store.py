"""Checkpoints in an object store: whole or not there, the highest step first, and safe from latecomers."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from dreambooth_api.training import checkpoint_folder
from dreambooth_api.training.checkpoint import Checkpoint, load_newest, save
from dreambooth_api.training.checkpoint_store import CheckpointStore, sweep
from dreambooth_api.training.checkpoint_upload import CheckpointUpload
from enlight_common.errors import StorageFull, StoreUnavailable
from enlight_common.storage import FolderStore, ObjectStore, StorageLimits, put_bytes
from storage_backends import Backend

pytest_plugins = ("storage_servers",)

WITHIN_S = 60
RUN = "0" * 64


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


def checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint on the disk, whose tensors follow from its step."""
    folder.mkdir(exist_ok=True)
    tensors = {"a": torch.full((30, 20), float(step))}
    return save(folder, Checkpoint(step, tensors, tensors, tensors, {"position": {"step": step}}))


def put(store: CheckpointStore, folder: Path, writer: str) -> None:
    names = [checkpoint_folder.file_name(part) for part in checkpoint_folder.PARTS]
    files = {name: io.BytesIO((folder / name).read_bytes()) for name in names}
    step = checkpoint_folder.step_of(folder)
    store.put(step, writer, files, io.BytesIO((folder / checkpoint_folder.STATE).read_bytes()))


def kept(objects: ObjectStore) -> set[str]:
    """The steps and writers that the store has anything of."""
    return {found.key.split("/")[3].lstrip("0") for found in objects.list("checkpoints/")}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The empty disk of another machine."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def fetched(store: CheckpointStore, folder: Path, above: int = 0) -> int | None:
    """The step that is fetched, once it is known to be whole and the right one."""
    step = store.fetch(folder, above)
    if step is not None:
        loaded = load_newest(folder)
        assert loaded is not None
        assert (loaded.step, loaded.weights["a"][0, 0].item()) == (step, step)
    assert not list(folder.glob(".checkpoint-*"))
    return step


@pytest.mark.parametrize("kind", ["folder", "amazon"])
def test_what_was_put_is_fetched_on_another_machine_and_two_are_kept(
    kind: str, tmp_path: Path, elsewhere: Path, request: pytest.FixtureRequest
) -> None:
    objects: ObjectStore = FolderStore(tmp_path / "objects")
    if kind == "amazon":
        backend: Backend = request.getfixturevalue("amazon")
        objects = backend.open(StorageLimits(), backend.url)
    store = CheckpointStore(objects, "acme", RUN)
    assert fetched(store, elsewhere) is None
    for step in (5, 10, 100):
        put(store, checkpoint(tmp_path / "here", step), "one")
    assert kept(objects) == {"10-one", "100-one"}
    assert fetched(store, elsewhere, above=100) is None
    assert fetched(store, elsewhere, above=99) == 100
    assert fetched(CheckpointStore(objects, "acme", "1" * 64), elsewhere) is None
    assert fetched(CheckpointStore(objects, "other", RUN), elsewhere) is None
    store.remove()
    assert kept(objects) == set()


def test_who_comes_late_damages_nothing_and_the_highest_step_wins(
    objects: FolderStore, tmp_path: Path, elsewhere: Path
) -> None:
    store = CheckpointStore(objects, "acme", RUN)
    here = tmp_path / "here"
    put(store, checkpoint(here, 200), "new")
    put(store, checkpoint(here, 300), "new")
    before = {found.key: objects.read(found.key, 10**6) for found in objects.list("checkpoints/")}
    put(store, checkpoint(tmp_path / "stale", 100), "old")
    put(store, checkpoint(tmp_path / "stale", 300), "old")
    for key, content in before.items():
        if "-new/" in key and "300" in key:
            assert objects.read(key, 10**6) == content
    assert fetched(store, elsewhere) == 300
    put(store, checkpoint(here, 400), "new")
    assert {name for name in kept(objects) if name.startswith(("100", "200"))} == set()
    assert fetched(store, elsewhere, above=300) == 400


def _cut(store: FolderStore, prefix: str) -> None:
    put_bytes(store, f"{prefix}weights.safetensors", b"short")


def _flip(store: FolderStore, prefix: str) -> None:
    key = f"{prefix}optimizer.safetensors"
    content = bytearray(store.read(key, 10**6))
    content[-1] ^= 1
    put_bytes(store, key, bytes(content))


def _lose(store: FolderStore, prefix: str) -> None:
    store.delete(f"{prefix}random.safetensors")


def _no_state(store: FolderStore, prefix: str) -> None:
    store.delete(f"{prefix}state.json")


def _strange_state(store: FolderStore, prefix: str) -> None:
    put_bytes(store, f"{prefix}state.json", b"[1, 2]")


def _other_files(store: FolderStore, prefix: str) -> None:
    state = store.read(f"{prefix}state.json", 10**6)
    put_bytes(store, f"{prefix}state.json", state.replace(b"weights.safetensors", b"../../../../etc/cron"))


def _other_step(store: FolderStore, prefix: str) -> None:
    state = store.read(f"{prefix}state.json", 10**6)
    put_bytes(store, f"{prefix}state.json", state.replace(b'"step": 10', b'"step": 11'))


@pytest.mark.parametrize("damage", [_cut, _flip, _lose, _no_state, _strange_state, _other_files, _other_step])
def test_a_damaged_one_is_passed_over_for_the_one_before(
    objects: FolderStore, tmp_path: Path, elsewhere: Path, damage: Callable[[FolderStore, str], None]
) -> None:
    store = CheckpointStore(objects, "acme", RUN)
    put(store, checkpoint(tmp_path / "here", 5), "one")
    put(store, checkpoint(tmp_path / "here", 10), "one")
    damage(objects, f"checkpoints/acme/{RUN}/000000010-one/")
    assert fetched(store, elsewhere) == 5


def test_what_was_cut_short_goes_when_there_is_something_newer(objects: FolderStore, tmp_path: Path) -> None:
    store = CheckpointStore(objects, "acme", RUN)
    for step in (3, 9):
        put_bytes(objects, f"checkpoints/acme/{RUN}/{step:09d}-killed/weights.safetensors", b"half")
    put(store, checkpoint(tmp_path / "here", 5), "one")
    assert kept(objects) == {"5-one", "9-killed"}
    put(store, checkpoint(tmp_path / "here", 10), "one")
    put(store, checkpoint(tmp_path / "here", 15), "one")
    assert kept(objects) == {"10-one", "15-one"}


def test_a_disk_without_room_says_so_and_nothing_is_left_on_it(
    objects: FolderStore, tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(objects, "acme", RUN)
    put(store, checkpoint(tmp_path / "here", 5), "one")
    monkeypatch.setattr("dreambooth_api.training.checkpoint_store.free_bytes", lambda folder: 100)
    with pytest.raises(StorageFull):
        store.fetch(elsewhere, above=0)
    assert list(elsewhere.iterdir()) == []


def test_abandoned_runs_are_swept_and_models_are_not(objects: FolderStore, tmp_path: Path) -> None:
    put(CheckpointStore(objects, "acme", RUN), checkpoint(tmp_path / "here", 5), "one")
    put_bytes(objects, "models/acme/shoe/v1/model.json", b"{}")
    assert sweep(objects, older_than_s=3600) == 0
    assert kept(objects) == {"5-one"}
    assert sweep(objects, older_than_s=-1) == 1
    assert [found.key for found in objects.list()] == ["models/acme/shoe/v1/model.json"]


class Gate(FolderStore):
    """A store whose puts wait until it is open, and fail while it is broken."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened, self.reached, self.broken = threading.Event(), threading.Event(), False

    def put(self, key: str, source: Any, size: int) -> None:
        self.reached.set()
        assert self.opened.wait(WITHIN_S)
        if self.broken:
            raise StoreUnavailable("away")
        super().put(key, source, size)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gated")
    yield gate
    gate.broken = False
    gate.opened.set()


def test_the_upload_follows_the_newest_and_survives_that_the_disk_forgets(
    gate: Gate, tmp_path: Path, elsewhere: Path
) -> None:
    stored: list[int] = []
    store = CheckpointStore(gate, "acme", RUN)
    upload = CheckpointUpload(store, "one", stored.append)
    upload.offer(checkpoint(tmp_path / "here", 1))
    assert gate.reached.wait(WITHIN_S)
    for step in (2, 3, 4, 5):
        upload.offer(checkpoint(tmp_path / "here", step))
    assert not (tmp_path / "here" / "checkpoint-1").exists()
    gate.opened.set()
    assert upload.flush(WITHIN_S)
    assert stored == [1, 5]
    assert fetched(store, elsewhere) == 5


def test_a_store_that_is_away_ends_no_training_and_gets_the_checkpoint_later(
    gate: Gate, tmp_path: Path, elsewhere: Path
) -> None:
    gate.broken = True
    gate.opened.set()
    store = CheckpointStore(gate, "acme", RUN)
    upload = CheckpointUpload(store, "one", lambda step: None)
    upload.offer(checkpoint(tmp_path / "here", 1))
    assert not upload.flush(WITHIN_S)
    assert store.fetch(elsewhere, above=0) is None
    gate.broken = False
    deadline = time.monotonic() + WITHIN_S
    while not upload.flush(WITHIN_S):
        assert time.monotonic() < deadline
    assert fetched(store, elsewhere) == 1
