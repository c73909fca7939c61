from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from enlight_common.errors import InvalidField, StorageFull
from enlight_common.files import free_bytes, read_json, sha256_of, write_atomically, write_json
from enlight_common.ids import check_id, is_request_id, new_request_id


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [True, False])
def test_writes_replace_what_was_there_and_leave_nothing_else(tmp_path: Path, sync: bool):
    path = tmp_path / "state.json"
    write_atomically(path, "old", sync=sync)
    write_atomically(path, "né".encode(), sync=sync)
    assert path.read_bytes() == "né".encode()
    assert names_in(tmp_path) == ["state.json"]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path):
    path = tmp_path / "state.json"
    path.mkdir()  # a rename onto a folder fails
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, "new")
    assert names_in(tmp_path) == ["state.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, mode: str):
        return open("/dev/full", "wb")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageFull):
        write_atomically(tmp_path / "state.json", "new")


def _write_for_ever(path: Path) -> None:
    number = 0
    while True:
        number += 1
        write_json(path, {"number": number, "text": "x" * 200_000}, sync=False)


def test_a_reader_never_sees_half_a_file_though_the_writer_is_killed(tmp_path: Path):
    path = tmp_path / "state.json"
    writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(path,))
    writer.start()
    try:
        while not path.exists():
            assert writer.is_alive()
        for _ in range(50):
            assert len(read_json(path)["text"]) == 200_000
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    assert len(read_json(path)["text"]) == 200_000


def test_json_comes_back_as_it_went(tmp_path: Path):
    value = {"b": [1, 2.5, None], "a": "é", "c": {"d": True}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_json_refuses_what_json_has_not(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert names_in(tmp_path) == []


def test_the_checksum_is_that_of_the_whole_file(tmp_path: Path):
    data = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(data)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_free_bytes_takes_a_folder_that_is_not_there_yet(tmp_path: Path):
    assert free_bytes(tmp_path / "not" / "there") > 0


@pytest.mark.parametrize("value", ["a", "Sks-dog_1.0", "9lives", "a" * 64, "a..b"])
def test_takes_ids(value: str):
    assert check_id(value, "OUTPUT_DIR") == value


OUTSIDE = ["", ".", "..", "../x", "/etc/x", "a/b", "a\\b", ".hidden"]
ODD = ["-a", "_a", "a b", "a\n", "a\0", "é", "a" * 65, "x" * 4096, None, 7, ["a"], True]


@pytest.mark.parametrize("value", [*OUTSIDE, *ODD])
def test_refuses_ids_that_could_lead_elsewhere_and_does_not_repeat_them(value: object):
    with pytest.raises(InvalidField) as caught:
        check_id(value, "OUTPUT_DIR")
    assert caught.value.field == "OUTPUT_DIR"
    assert caught.value.detail.startswith("OUTPUT_DIR: must be 1 to 64 letters, digits, dots")
    assert caught.value.detail.endswith("the first a letter or digit")


def test_request_ids_are_new_each_time_and_pass_their_own_check():
    first, second = new_request_id(), new_request_id()
    assert first != second
    assert is_request_id(first)
    assert not is_request_id("a\r\nSet-Cookie: x")
    assert not is_request_id("a" * 200)
