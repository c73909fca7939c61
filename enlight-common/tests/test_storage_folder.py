"""What only a store in a folder can get wrong: links, leftovers, and folders that come and go."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from enlight_common.errors import (
    Conflict,
    InternalError,
    NoSuchObject,
    StoreCorrupt,
    StoreDenied,
    StoreUnavailable,
)
from enlight_common.storage import FolderStore, open_object_store, put_bytes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> FolderStore:
    return FolderStore(root)


def names_under(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_an_object_is_a_file_under_its_key_and_nothing_else(store: FolderStore, root: Path):
    put_bytes(store, "a/b/c", b"bytes")
    assert (root / "a/b/c").read_bytes() == b"bytes"
    assert names_under(root) == [".incoming", "a", "a/b", "a/b/c"]


def test_a_plain_path_is_an_address_and_so_is_one_with_escapes(tmp_path: Path):
    put_bytes(open_object_store(str(tmp_path / "a folder")), "a", b"x")
    assert open_object_store(f"file://{tmp_path}/a%20folder").read("a", 1) == b"x"


def test_folders_go_with_their_last_object(store: FolderStore, root: Path):
    put_bytes(store, "a/b/c", b"x")
    put_bytes(store, "a/d", b"x")
    store.delete("a/b/c")
    assert names_under(root) == [".incoming", "a", "a/d"]
    store.delete("a/d")
    assert names_under(root) == [".incoming"]


def test_links_lead_nowhere(store: FolderStore, root: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    put_bytes(store, "real", b"x")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "inside").symlink_to(root / "real")
    (root / "broken").symlink_to(outside / "none")
    for key in ("folder/secret", "file", "inside", "broken"):
        assert store.stat(key) is None
        with pytest.raises(NoSuchObject):
            store.get(key, io.BytesIO())
        with pytest.raises(NoSuchObject):
            store.read(key, 100)
    assert [info.key for info in store.list()] == ["real"]
    assert list(store.list("folder/")) == []
    with pytest.raises(Conflict):
        put_bytes(store, "folder/new", b"x")
    store.delete("folder/secret")
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_a_put_onto_a_link_replaces_the_link_and_not_what_it_leads_to(
    store: FolderStore, root: Path, tmp_path: Path
):
    (tmp_path / "outside").write_bytes(b"secret")
    (root / "a").symlink_to(tmp_path / "outside")
    put_bytes(store, "a", b"x")
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert store.read("a", 10) == b"x"


def test_the_root_itself_may_be_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    put_bytes(FolderStore(tmp_path / "link"), "a", b"x")
    assert (tmp_path / "real/a").read_bytes() == b"x"


def test_what_is_no_object_is_not_listed(store: FolderStore, root: Path):
    put_bytes(store, "a", b"x")
    (root / ".hidden").write_bytes(b"x")
    (root / ".incoming/left").write_bytes(b"x")
    (root / "odd name").write_bytes(b"x")
    (root / "empty").mkdir()
    os.mkfifo(root / "pipe")
    assert [info.key for info in store.list()] == ["a"]
    with pytest.raises(NoSuchObject):
        store.read("pipe", 10)
    assert store.stat("pipe") is None
    assert store.stat("empty") is None


def test_leftovers_of_a_day_are_removed_and_younger_ones_kept(root: Path):
    incoming = root / ".incoming"
    incoming.mkdir(parents=True)
    for name in ("old", "young", "old-folder"):
        (incoming / name).mkdir() if name == "old-folder" else (incoming / name).write_bytes(b"x")
    day_ago = time.time() - 24 * 3600 - 10
    for name in ("old", "old-folder"):
        os.utime(incoming / name, (day_ago, day_ago))
    FolderStore(root)
    assert names_under(incoming) == ["young"]


def test_an_object_cannot_be_a_folder_too(store: FolderStore):
    put_bytes(store, "a/b", b"x")
    with pytest.raises(Conflict):
        put_bytes(store, "a", b"x")
    with pytest.raises(Conflict):
        put_bytes(store, "a/b/c", b"x")
    store.delete("a")
    assert [info.key for info in store.list()] == ["a/b"]


def test_an_empty_folder_that_was_left_behind_is_in_nobodys_way(store: FolderStore, root: Path):
    (root / "a").mkdir()
    put_bytes(store, "a", b"x")
    assert store.read("a", 10) == b"x"


def test_a_put_survives_deletes_that_remove_its_folders(store: FolderStore):
    stopped = threading.Event()
    errors: list[BaseException] = []

    def disturb(name: str) -> None:
        while not stopped.is_set():
            try:
                put_bytes(store, f"a/b/c/{name}", b"x")
                store.delete(f"a/b/c/{name}")
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=disturb, args=(name,)) for name in ("x", "y")]
    for thread in threads:
        thread.start()
    try:
        for number in range(150):
            put_bytes(store, "a/b/c/mine", b"%d" % number)
            assert store.read("a/b/c/mine", 10) == b"%d" % number
            store.delete("a/b/c/mine")
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert list(store.list()) == []


def test_a_reader_keeps_what_it_opened(store: FolderStore):
    put_bytes(store, "a", b"old")
    with store.open("a") as file:
        put_bytes(store, "a", b"new")
        store.delete("a")
        assert file.read() == b"old"


def test_only_one_level_of_a_long_key_is_read_at_a_time(store: FolderStore):
    key = "/".join("a" * 512)
    put_bytes(store, key, b"x")
    assert [info.key for info in store.list("a/a/a")] == [key]
    store.delete(key)
    assert list(store.list()) == []


def test_a_source_of_any_kind_will_do(store: FolderStore, tmp_path: Path):
    data = os.urandom(3_000_000)
    with gzip.open(tmp_path / "zip", "wb") as file:
        file.write(data)
    with gzip.open(tmp_path / "zip") as file:  # its descriptor is the compressed file's
        store.put("gzip", file, len(data))
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"skip" + data)
        file.seek(4)
        store.put("named", file, len(data))
        assert file.tell() == 4 + len(data)
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: [os.write(writing, data), os.close(writing)])
    writer.start()
    with os.fdopen(reading, "rb") as file:
        store.put("pipe", file, len(data))
    writer.join()
    for key in ("gzip", "named", "pipe"):
        assert store.read(key, len(data)) == data


def test_a_pipe_that_ends_early_stores_nothing(store: FolderStore, root: Path):
    reading, writing = os.pipe()
    os.write(writing, b"short")
    os.close(writing)
    with os.fdopen(reading, "rb") as file, pytest.raises(StoreCorrupt):
        store.put("a", file, 6)
    assert names_under(root) == [".incoming"]


def test_a_source_that_fails_stores_nothing(store: FolderStore, root: Path):
    class Failing(io.RawIOBase):
        def seekable(self) -> bool:
            return False

        def read(self, size: int = -1) -> bytes:
            raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError):
        store.put("a", Failing(), 6)
    assert names_under(root) == [".incoming"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_refuses_is_denied(store: FolderStore, root: Path):
    (root / ".incoming").chmod(0o500)
    with pytest.raises(StoreDenied):
        put_bytes(store, "a", b"x")


def test_a_target_that_cannot_be_written_is_an_error_of_ours(store: FolderStore, tmp_path: Path):
    put_bytes(store, "a", b"x")
    (tmp_path / "target").write_bytes(b"")
    with (tmp_path / "target").open("rb") as target, pytest.raises(InternalError):
        store.get("a", target)


def test_a_folder_that_was_unmounted_is_unavailable_and_nothing_is_written_where_it_was(
    tmp_path: Path,
) -> None:
    store = open_object_store((tmp_path / "volume" / "root").as_uri())
    put_bytes(store, "a", b"there")
    (tmp_path / "volume").rename(tmp_path / "elsewhere")
    for call in (
        lambda: put_bytes(store, "a", b"x"),
        lambda: store.read("a", 10),
        lambda: store.stat("a"),
        lambda: list(store.list()),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    assert not (tmp_path / "volume").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "volume")
    assert store.read("a", 10) == b"there"
