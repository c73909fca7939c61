"""Checkpoints: whole or not there, and a damaged one gives way to the one before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dreambooth_api.training.checkpoint import Checkpoint, load_newest, save
from dreambooth_api.training.workspace import Workspace, prune
from enlight_common.errors import Busy


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        weights={"a": torch.full((3, 2), float(step)), "b": torch.arange(4.0)[::2]},
        optimizer={"a/exp_avg": torch.ones(3, 2), "a/step": torch.tensor(float(step))},
        random={"noise": generator.get_state(), "left": torch.empty(0, dtype=torch.int64)},
        extra={"position": {"step": step}},
    )


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    save(tmp_path, checkpoint(7))
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.extra) == (7, {"position": {"step": 7}})
    for name in ("weights", "optimizer", "random"):
        saved = getattr(checkpoint(7), name)
        assert getattr(loaded, name).keys() == saved.keys()
        assert all(torch.equal(getattr(loaded, name)[key], value) for key, value in saved.items())


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, checkpoint(step))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-100"}


def _cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _flip(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _forget_state(folder: Path) -> None:
    (folder / "state.json").unlink()


def _empty_state(folder: Path) -> None:
    (folder / "state.json").write_text("")


def _strange_state(folder: Path) -> None:
    (folder / "state.json").write_text(json.dumps([1, 2]))


def _lose_a_file(folder: Path) -> None:
    (folder / "random.safetensors").unlink()


@pytest.mark.parametrize("damage", [_cut, _flip, _forget_state, _empty_state, _strange_state, _lose_a_file])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, checkpoint(5))
    damage(save(tmp_path, checkpoint(10)))
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.step == 5
    assert not (tmp_path / "checkpoint-10").exists()


def test_what_a_killed_writer_left_is_not_loaded(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(5))
    (tmp_path / "checkpoint-5").rename(tmp_path / ".checkpoint-5.tmp")
    assert load_newest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    first = Workspace.claim(tmp_path, "a")
    with pytest.raises(Busy):
        Workspace.claim(tmp_path, "a")
    first.remove()
    assert list(tmp_path.iterdir()) == []
    second = Workspace.claim(tmp_path, "a")
    second.release()
    Workspace.claim(tmp_path, "a").release()


def test_unfinished_runs_are_kept_up_to_a_number_and_a_size_but_not_from_under_their_owner(
    tmp_path: Path,
) -> None:
    def leave(name: str, age_s: int) -> Path:
        workspace = Workspace.claim(tmp_path, name)
        (workspace.folder / "checkpoint").write_bytes(b"1" * 100_000)
        if name != "used":
            workspace.release()
        os.utime(workspace.folder, (time.time() - age_s,) * 2)
        return workspace.folder

    made = [leave(name, age_s) for age_s, name in enumerate(["new", "newer", "used", "old", "older"])]
    prune(tmp_path, keep=4, keep_bytes=10**9)
    assert [folder.exists() for folder in made] == [True, True, True, True, False]
    prune(tmp_path, keep=4, keep_bytes=150_000)
    assert [folder.exists() for folder in made] == [True, False, True, False, False]
