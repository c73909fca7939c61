"""What the stores behind a network do when the network or the server fails: real bytes on real sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from enlight_common.errors import (
    EnlightError,
    NoSuchObject,
    StorageFull,
    StoreCorrupt,
    StoreDenied,
    StoreUnavailable,
)
from enlight_common.storage import ObjectStore, StorageLimits, open_object_store, put_bytes
from storage_backends import Backend
from storage_issuer import NODE_KEY
from storage_proxy import Fault, FaultyProxy

from conftest import free_port

pytest_plugins = ("storage_servers",)

ATTEMPTS = 3
PATIENT = StorageLimits(
    attempts=ATTEMPTS,
    backoff_s=0.01,
    max_backoff_s=0.02,
    parallel_from_bytes=1024 * 1024,
    part_bytes=256 * 1024,
    parallel=4,
)
# For connections that fall silent; only there does a test wait for it.
HASTY = dataclasses.replace(PATIENT, read_s=0.6, attempts=2)
SMALL = 300_000
LARGE = 3_000_000  # in parallel parts
UPLOAD = 12_000_000  # a resumable upload at Google, one in parts at Amazon


@dataclass
class Faulty:
    """A store behind a proxy, and the same objects reached without it."""

    backend: Backend
    proxy: FaultyProxy
    direct: ObjectStore
    patient: ObjectStore
    hasty: ObjectStore

    def on_get(self, kind: str, **options: object) -> contextlib.AbstractContextManager[None]:
        return self.proxy.failing(Fault(kind, matches=self.backend.is_get, **options))

    def on_put(self, kind: str, **options: object) -> contextlib.AbstractContextManager[None]:
        return self.proxy.failing(Fault(kind, matches=self.backend.is_put, **options))


@pytest.fixture(scope="module", params=["google", "amazon", "granted"])
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(contextlib.closing(FaultyProxy()))
        if request.param == "granted":
            behind = request.getfixturevalue("issuer_behind")
            backend = stack.enter_context(behind(proxy, tmp_path_factory.mktemp("issued")))
        else:
            backend = request.getfixturevalue(request.param)
            proxy.upstream = backend.port
        stores = [backend.open(limits, proxy.url) for limits in (PATIENT, HASTY)]
        yield Faulty(backend, proxy, backend.open(PATIENT, backend.url), *stores)


@pytest.fixture
def key() -> str:
    return f"f{uuid.uuid4().hex[:12]}/object"


def got(store: ObjectStore, key: str, tmp_path: Path, **options: int) -> bytes:
    path = tmp_path / uuid.uuid4().hex
    with path.open("w+b") as target:
        written = store.get(key, target, **options)
    assert path.stat().st_size == written
    return path.read_bytes()


def requests_of(store: ObjectStore, key: str) -> dict[str, Callable[[], object]]:
    return {
        "put": lambda: put_bytes(store, key, b"new"),
        "get": lambda: store.get(key, io.BytesIO()),
        "read": lambda: store.read(key, 100),
        "stat": lambda: store.stat(key),
        "list": lambda: list(store.list(key)),
        "delete": lambda: store.delete(key),
    }


OPERATIONS = ["put", "get", "read", "stat", "list", "delete"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["reset", "status"])
def test_a_fault_that_goes_away_is_not_noticed(faulty: Faulty, key: str, operation: str, kind: str):
    put_bytes(faulty.direct, key, b"old")
    with faulty.proxy.failing(Fault(kind, times=ATTEMPTS - 1)):
        requests_of(faulty.patient, key)[operation]()
    assert len(faulty.proxy.hit) == ATTEMPTS - 1


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["reset", "status"])
def test_a_fault_that_stays_ends_after_all_attempts(faulty: Faulty, key: str, operation: str, kind: str):
    put_bytes(faulty.direct, key, b"old")
    with faulty.proxy.failing(Fault(kind)), pytest.raises(StoreUnavailable) as caught:
        requests_of(faulty.patient, key)[operation]()
    assert len(faulty.proxy.seen) == ATTEMPTS
    assert key not in caught.value.detail
    assert faulty.direct.read(key, 100) == b"old"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 504])
def test_other_statuses_of_the_passing_kind_are_tried_again_too(faulty: Faulty, key: str, status: int):
    put_bytes(faulty.direct, key, b"old")
    with faulty.proxy.failing(Fault("status", times=1, status=status)):
        assert faulty.patient.exists(key)
    assert len(faulty.proxy.hit) == 1


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_not_tried_again(faulty: Faulty, key: str, status: int):
    with faulty.proxy.failing(Fault("status", status=status)), pytest.raises(StoreDenied) as caught:
        faulty.patient.stat(key)
    # Amazon's library asks once more to learn whether the bucket is in another region.
    assert len(faulty.proxy.seen) <= (2 if faulty.backend.name == "amazon" else 1)
    assert NODE_KEY not in str(caught.value)


def test_a_server_that_never_answers_ends_after_all_attempts(faulty: Faulty, key: str):
    with faulty.proxy.failing(Fault("silence")), pytest.raises(StoreUnavailable):
        faulty.hasty.stat(key)
    assert len(faulty.proxy.seen) == HASTY.attempts


def test_a_port_where_nobody_listens_is_unavailable(faulty: Faulty, key: str):
    alone = faulty.backend.open(PATIENT, f"http://127.0.0.1:{free_port()}")
    for operation in requests_of(alone, key).values():
        with pytest.raises(StoreUnavailable):
            operation()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_answer_that_is_cut_is_continued(faulty: Faulty, key: str, tmp_path: Path, size: int):
    data = os.urandom(size)
    put_bytes(faulty.direct, key, data)
    with faulty.on_get("cut", times=2, at=100_000):
        assert got(faulty.patient, key, tmp_path, size=size) == data
    assert len(faulty.proxy.hit) == 2


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_answers_that_are_always_cut_end_after_all_attempts(
    faulty: Faulty, key: str, tmp_path: Path, size: int
):
    put_bytes(faulty.direct, key, os.urandom(size))
    with faulty.on_get("cut", at=1000), pytest.raises(StoreUnavailable):
        got(faulty.patient, key, tmp_path, size=size)
    parts = 1 if size == SMALL else PATIENT.parallel
    assert ATTEMPTS <= len(faulty.proxy.hit) <= ATTEMPTS * parts


def test_an_answer_that_stalls_is_continued(faulty: Faulty, key: str, tmp_path: Path):
    data = os.urandom(SMALL)
    put_bytes(faulty.direct, key, data)
    with faulty.on_get("stall", times=1, at=100_000):
        assert got(faulty.hasty, key, tmp_path) == data
    assert len(faulty.proxy.hit) == 1


def test_answers_that_always_stall_end_after_all_attempts(faulty: Faulty, key: str, tmp_path: Path):
    put_bytes(faulty.direct, key, os.urandom(SMALL))
    with faulty.on_get("stall", at=10_000), pytest.raises(StoreUnavailable):
        got(faulty.hasty, key, tmp_path)
    assert len(faulty.proxy.hit) == HASTY.attempts


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_bytes_that_change_on_the_way_are_noticed(faulty: Faulty, key: str, tmp_path: Path, size: int):
    if faulty.backend.name == "granted":
        pytest.skip("a granted URL promises a length and no checksum; callers compare their own")
    data = os.urandom(size)
    put_bytes(faulty.direct, key, data)
    with faulty.on_get("flip", times=1, at=1000):
        assert got(faulty.patient, key, tmp_path) == data
    assert len(faulty.proxy.hit) == 1
    with faulty.on_get("flip", at=1000), pytest.raises(StoreCorrupt):
        got(faulty.patient, key, tmp_path)


@pytest.mark.parametrize("size", [SMALL, UPLOAD])
@pytest.mark.parametrize(("kind", "at"), [("cut-upload", 50_000), ("reset", 0), ("status", 0)])
def test_an_upload_that_fails_once_arrives_whole(
    faulty: Faulty, key: str, tmp_path: Path, size: int, kind: str, at: int
):
    data = os.urandom(size)
    put_bytes(faulty.direct, key, b"old")
    with faulty.on_put(kind, times=1, at=at):
        put_bytes(faulty.patient, key, data)
    assert len(faulty.proxy.hit) == 1
    assert got(faulty.direct, key, tmp_path, size=size) == data


@pytest.mark.parametrize("size", [SMALL, UPLOAD])
@pytest.mark.parametrize(("kind", "at"), [("cut-upload", 50_000), ("status", 0)])
def test_an_upload_that_always_fails_leaves_what_was_there(
    faulty: Faulty, key: str, tmp_path: Path, size: int, kind: str, at: int
):
    put_bytes(faulty.direct, key, b"old")
    with faulty.on_put(kind, at=at), pytest.raises(StoreUnavailable):
        put_bytes(faulty.patient, key, os.urandom(size))
    assert faulty.direct.read(key, 100) == b"old"
    assert [info.size for info in faulty.direct.list(key)] == [3]


def test_an_upload_that_nobody_answers_ends_after_all_attempts(faulty: Faulty, key: str):
    with faulty.on_put("silence"), pytest.raises(StoreUnavailable):
        put_bytes(faulty.hasty, key, b"x")
    assert len(faulty.proxy.hit) == HASTY.attempts


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("growth", [-5000, 0, 5000])
def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed(
    faulty: Faulty, key: str, tmp_path: Path, size: int, growth: int
):
    if faulty.backend.name == "google" and growth < 0:
        pytest.skip("the emulator forgets the generation, and a short answer then is a cut one")
    new = os.urandom(size + growth)
    put_bytes(faulty.direct, key, os.urandom(size))
    replaced = []

    def replace(method: str, path: str) -> bool:
        if not faulty.backend.is_get(method, path) or len(replaced) > 1:
            return False
        # The second range finds another object than the first.
        replaced.append(path)
        if len(replaced) == 2:
            put_bytes(faulty.direct, key, new)
            return False
        return True

    with faulty.proxy.failing(Fault("cut", at=1000, matches=replace)):
        assert got(faulty.patient, key, tmp_path) == new


def test_an_object_that_is_deleted_while_it_is_read_is_missing(faulty: Faulty, key: str, tmp_path: Path):
    put_bytes(faulty.direct, key, os.urandom(SMALL))

    def delete(method: str, path: str) -> bool:
        if not faulty.backend.is_get(method, path):
            return False
        faulty.direct.delete(key)
        return True

    with faulty.proxy.failing(Fault("cut", at=1000, times=1, matches=delete)), pytest.raises(NoSuchObject):
        got(faulty.patient, key, tmp_path)


def test_a_full_disk_is_said_to_be_one(faulty: Faulty, key: str):
    put_bytes(faulty.direct, key, os.urandom(SMALL))
    with open("/dev/full", "r+b", buffering=0) as target, pytest.raises(StorageFull):
        faulty.patient.get(key, target)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_without_room_is_known_before_the_download(faulty: Faulty, key: str, small_disk: Path):
    put_bytes(faulty.direct, key, os.urandom(LARGE))
    with (
        faulty.on_get("status"),
        (small_disk / "target").open("w+b") as target,
        pytest.raises(StorageFull),
    ):
        faulty.patient.get(key, target)
    assert faulty.proxy.hit == []


def test_a_folder_without_room_keeps_what_it_had_and_no_leftovers(small_disk: Path):
    store = open_object_store(f"file://{small_disk}")
    put_bytes(store, "a", b"old")
    with pytest.raises(StorageFull):
        put_bytes(store, "a", os.urandom(LARGE))
    assert store.read("a", 10) == b"old"
    assert list((small_disk / ".incoming").iterdir()) == []
    with open("/dev/full", "r+b", buffering=0) as target, pytest.raises(StorageFull):
        store.get("a", target)


def test_every_failure_is_one_of_ours_whatever_the_answer_says(faulty: Faulty, key: str):
    put_bytes(faulty.direct, key, b"old")
    for status in (204, 304, 404, 405, 409, 410, 412, 413, 416, 422, 451, 501, 505, 507):
        for name, operation in requests_of(faulty.patient, key).items():
            with (
                faulty.proxy.failing(Fault("status", status=status)),
                contextlib.suppress(EnlightError),
            ):
                answer = operation()
                assert name != "get" or answer in (0, 3)
