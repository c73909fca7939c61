"""What every object store does, on a folder, on emulators of two clouds, and through signed URLs."""

from __future__ import annotations

import io
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from enlight_common.errors import InvalidField, NoSuchObject, StoreCorrupt, StoreDenied
from enlight_common.storage import FolderStore, ObjectStore, StorageLimits, open_object_store, put_bytes
from storage_backends import LIMITS, Backend

pytest_plugins = ("storage_servers",)

BACKENDS = ["folder", "google", "amazon", "granted"]
BAD_KEYS = [
    "../x",
    "/x",
    "x//y",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "a\x00b",
    "a\nb",
    "k" * 2000,
    "a/" + "k" * 256,
    "ü",
    "a\\b",
    "a/",
    "",
    ".incoming/x",
    "a b",
    "a?b",
    "a%2fb",
    None,
    7,
]


@pytest.fixture(scope="session")
def open_backend(request: pytest.FixtureRequest) -> Callable[[str], ObjectStore]:
    opened: dict[str, ObjectStore] = {}

    def open_one(name: str) -> ObjectStore:
        if name not in opened:
            backend: Backend = request.getfixturevalue(name)
            opened[name] = backend.open(LIMITS, backend.url)
        return opened[name]

    return open_one


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, open_backend: Callable[[str], ObjectStore]) -> ObjectStore:
    return open_backend(request.param)


@pytest.fixture
def place() -> str:
    """The beginning of keys that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}/"


def got(store: ObjectStore, key: str, tmp_path: Path, **options: int) -> bytes:
    """The object by `get`, after checking that it says how much it wrote and leaves the file there."""
    with (tmp_path / uuid.uuid4().hex).open("w+b") as target:
        written = store.get(key, target, **options)
        assert target.tell() == written
        target.seek(0)
        data = target.read()
    assert len(data) == written
    return data


@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024 + 1])
def test_what_was_put_is_got(store: ObjectStore, place: str, tmp_path: Path, size: int):
    data = os.urandom(size)
    before = time.time()
    put_bytes(store, place + "a/b.bin", data)
    assert got(store, place + "a/b.bin", tmp_path) == data
    assert got(store, place + "a/b.bin", tmp_path, size=size) == data
    assert store.read(place + "a/b.bin", size) == data
    info = store.stat(place + "a/b.bin")
    assert (info.key, info.size) == (place + "a/b.bin", size)
    assert before - 2 <= info.modified <= time.time() + 2
    assert store.exists(place + "a/b.bin")


def test_an_object_that_is_moved_in_parts_is_got_whole(store: ObjectStore, place: str, tmp_path: Path):
    size = 70 * 1024 * 1024
    assert size > LIMITS.parallel_from_bytes
    data = os.urandom(1024 * 1024) * 70
    (tmp_path / "source").write_bytes(b"skipped" + data + b"not meant")
    with (tmp_path / "source").open("rb") as source:
        source.seek(7)
        store.put(place + "large", source, size)
        assert not source.closed
    (tmp_path / "source").unlink()
    assert got(store, place + "large", tmp_path, size=size) == data
    store.delete(place + "large")


def test_an_object_goes_into_memory_as_well(store: ObjectStore, place: str):
    put_bytes(store, place + "a", b"some bytes")
    target = io.BytesIO()
    assert store.get(place + "a", target) == 10
    assert target.getvalue() == b"some bytes"


def test_a_put_replaces_the_object(store: ObjectStore, place: str, tmp_path: Path):
    put_bytes(store, place + "a", b"a longer first")
    put_bytes(store, place + "a", b"second")
    assert got(store, place + "a", tmp_path) == b"second"
    assert [info.size for info in store.list(place)] == [6]


def test_a_put_takes_its_bytes_from_where_the_source_stands(store: ObjectStore, place: str, tmp_path: Path):
    source = io.BytesIO(b"0123456789")
    source.seek(3)
    store.put(place + "a", source, 4)
    assert got(store, place + "a", tmp_path) == b"3456"


@pytest.mark.parametrize("size", [10, 9_000_000])
def test_a_source_that_is_too_short_stores_nothing(store: ObjectStore, place: str, size: int):
    with pytest.raises(StoreCorrupt):
        store.put(place + "a", io.BytesIO(b"x" * (size - 1)), size)
    assert not store.exists(place + "a")
    assert list(store.list(place)) == []


def test_a_negative_size_is_refused(store: ObjectStore, place: str):
    with pytest.raises(InvalidField):
        store.put(place + "a", io.BytesIO(b"x"), -1)


@pytest.mark.parametrize("size", [9, 11, 0, 10**15])
def test_another_size_than_expected_is_corrupt(store: ObjectStore, place: str, tmp_path: Path, size: int):
    put_bytes(store, place + "a", b"0123456789")
    with (tmp_path / "target").open("w+b") as target, pytest.raises(StoreCorrupt):
        store.get(place + "a", target, size=size)
    assert (tmp_path / "target").stat().st_size == 0


def test_a_read_is_bounded(store: ObjectStore, place: str):
    put_bytes(store, place + "a", b"0123456789")
    assert store.read(place + "a", 10) == b"0123456789"
    with pytest.raises(StoreCorrupt):
        store.read(place + "a", 9)


def test_what_is_missing_is_said_to_be(store: ObjectStore, place: str, tmp_path: Path):
    put_bytes(store, place + "folder/a", b"x")
    for key in (place + "none", place + "no/ne", place + "folder", place + "folder/a/b"):
        with pytest.raises(NoSuchObject):
            got(store, key, tmp_path)
        with pytest.raises(NoSuchObject):
            store.read(key, 10)
        assert store.stat(key) is None
        assert not store.exists(key)


def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(store: ObjectStore, place: str):
    put_bytes(store, place + "a/b", b"x")
    put_bytes(store, place + "a/c", b"x")
    store.delete(place + "a/b")
    store.delete(place + "a/b")
    store.delete(place + "never/was")
    assert [info.key for info in store.list(place)] == [place + "a/c"]


def test_keys_are_listed_in_order_by_prefix_and_from_a_key_on(store: ObjectStore, place: str):
    names = ["a-b", "a.c", "a/b", "a/c/d", "a0", "ab", "b", "A"]
    for name in names:
        put_bytes(store, place + name, name.encode())
    keys = [place + name for name in sorted(names)]
    assert [info.key for info in store.list(place)] == keys
    assert [info.size for info in store.list(place)] == [len(name) for name in sorted(names)]
    assert [info.key for info in store.list(place + "a/")] == [place + "a/b", place + "a/c/d"]
    assert [info.key for info in store.list(place + "a")] == [key for key in keys if key > place + "a"][:-1]
    assert list(store.list(place + "a/c/d/e")) == []
    assert list(store.list(place + "zzz")) == []
    for key in keys:
        assert [info.key for info in store.list(place, after=key)] == [other for other in keys if other > key]
    assert [info.key for info in store.list(place, after=place + "a/bb")] == keys[
        keys.index(place + "a/c/d") :
    ]


@pytest.mark.parametrize("prefix", ["/", "../", "a//", "a/../b", "ü", "a\x00", "a/.", 7])
def test_a_prefix_that_no_key_has_is_refused(store: ObjectStore, prefix: str):
    with pytest.raises(InvalidField):
        list(store.list(prefix))


def test_more_keys_than_a_page_are_all_listed(
    store: ObjectStore, place: str, monkeypatch: pytest.MonkeyPatch
):
    count = 1050
    if not isinstance(store, FolderStore):  # a thousand puts take a while there
        count = 70
        for module in ("gcs", "s3", "granted"):
            monkeypatch.setattr(f"enlight_common.storage.{module}._PAGE", 20)
    names = [f"{place}{number % 7}/{number:05}" for number in range(count)]

    def put_some(some: list[str]) -> None:
        for name in some:
            put_bytes(store, name, b"x")

    threads = [threading.Thread(target=put_some, args=(names[first::4],)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [info.key for info in store.list(place)] == sorted(names)


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_bad_keys_are_refused_everywhere(store: ObjectStore, key: str):
    calls: list[Callable[[], object]] = [
        lambda: put_bytes(store, key, b"x"),
        lambda: store.get(key, io.BytesIO()),
        lambda: store.read(key, 10),
        lambda: store.stat(key),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: store.signed_url(key, "GET", 60),
    ]
    for call in calls:
        with pytest.raises(InvalidField) as caught:
            call()
        assert caught.value.field == "key"


def test_puts_of_one_key_at_once_leave_one_of_them_whole(store: ObjectStore, place: str, tmp_path: Path):
    candidates = [os.urandom(1) * (300_000 + number) for number in range(6)]
    errors: list[BaseException] = []

    def put_one(data: bytes) -> None:
        try:
            for _ in range(3):
                put_bytes(store, place + "a/b", data)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=put_one, args=(data,)) for data in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert got(store, place + "a/b", tmp_path) in candidates
    assert len(list(store.list(place))) == 1


@pytest.mark.parametrize("expires_s", [0, -1, 604801, 1.5, True, None])
def test_signed_urls_live_between_a_second_and_a_week(store: ObjectStore, expires_s: int):
    with pytest.raises(InvalidField):
        store.signed_url("a", "GET", expires_s)


@pytest.mark.parametrize("method", ["DELETE", "get", "", None])
def test_urls_are_signed_for_get_and_put_alone(store: ObjectStore, method: str):
    with pytest.raises(InvalidField):
        store.signed_url("a", method, 60)


@pytest.mark.parametrize(("name", "scheme"), [("google", "gs"), ("amazon", "s3")])
def test_a_bucket_that_is_not_there_is_a_mistake_of_the_service(
    name: str, scheme: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    url = request.getfixturevalue(name).url
    for variable in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(variable, url)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "testing")
    store = open_object_store(f"{scheme}://no-such-bucket", limits=LIMITS)
    with pytest.raises(StoreDenied):
        put_bytes(store, "a", b"x")
    with pytest.raises(StoreDenied):
        list(store.list())


def test_limits_that_allow_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        StorageLimits(attempts=0)
