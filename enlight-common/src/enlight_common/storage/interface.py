"""What every object store can do, and the one place where keys are checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

from enlight_common.errors import InvalidField

Method = Literal["GET", "PUT"]

MAX_KEY_BYTES = 1024  # what both Google Cloud Storage and S3 take
MAX_EXPIRY_S = 7 * 24 * 3600  # the most that signatures of version 4 allow, at Google and at Amazon

# A file name is 255 bytes at most; a leading dot marks what a folder store keeps to itself.
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}"
_SEGMENT_ALONE = re.compile(_SEGMENT)
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_PREFIX = re.compile(rf"({_SEGMENT}/)*({_SEGMENT})?")


@dataclass(frozen=True)
class ObjectInfo:
    """`size` in bytes, `modified` in seconds since the epoch."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class StorageLimits:
    """How long and how often a store that is reached over a network is tried. Times in seconds.

    `read_s` is how long a connection may be silent in the middle of a request, so an operation whose bytes
    stop flowing ends after `attempts` times that. Between attempts it waits `backoff_s`, doubled each time,
    at most `max_backoff_s`, and of that a random part between half and all. A download that brings fewer than
    `least_bytes_per_s` once it has had `read_s` seconds fails, too: a trickle could go on for days.
    """

    connect_s: float = 5.0
    read_s: float = 30.0
    least_bytes_per_s: float = 20_000.0
    attempts: int = 4
    backoff_s: float = 0.2
    max_backoff_s: float = 5.0
    # Objects of this size are moved in parts, several at a time.
    parallel_from_bytes: int = 64 * 1024 * 1024
    part_bytes: int = 16 * 1024 * 1024
    parallel: int = 8

    def __post_init__(self) -> None:
        if min(self.attempts, self.part_bytes, self.parallel) < 1:
            raise ValueError("attempts, part_bytes and parallel must be at least 1")


class ObjectStore(Protocol):
    """Objects by key. Keys are checked by `check_key`, so every method may raise InvalidField("key").

    A store that is reached over a network tries again as its StorageLimits say, and then raises
    StoreUnavailable. StoreDenied is raised at once, when it refuses the credentials or the request.
    """

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        """Store the next `size` bytes of `source` under `key`, whole or not at all; an older object goes.

        `source` is seekable: another attempt starts where it stood. Raises StoreCorrupt when it holds
        fewer bytes, StorageFull.
        """
        ...

    def get(self, key: str, target: BinaryIO, *, size: int | None = None) -> int:
        """Write the object to `target` and return how many bytes it has.

        `target` is empty, seekable and open for writing and reading ("w+b"); after an error its content
        means nothing. With `size` an object of another size raises StoreCorrupt before anything is written.
        Raises NoSuchObject, StorageFull.
        """
        ...

    def read(self, key: str, max_bytes: int) -> bytes:
        """A small object's bytes. Raises NoSuchObject, or StoreCorrupt for more than `max_bytes`."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """What is under `key`, or None."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        ...

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix` and sort behind `after`, in the order of their keys.

        What is stored or deleted meanwhile may be among them or not. Raises InvalidField("prefix").
        """
        ...

    def delete(self, key: str) -> None:
        """Forget the object; nothing happens when there is none."""
        ...

    def signed_url(self, key: str, method: Method, expires_s: int) -> str:
        """A URL that gives whoever holds it this one method on this one object for `expires_s` seconds.

        Raises InvalidField for anything but 1 to 604800 seconds, SigningUnavailable where the store has no
        key to sign with.
        """
        ...


def check_key(key: object) -> str:
    """Return `key` if it may name an object, else raise InvalidField("key").

    What passes is ASCII, at most 1024 bytes, and joined to a folder it stays inside and names no hidden file.
    """
    if isinstance(key, str) and len(key) <= MAX_KEY_BYTES and _KEY.fullmatch(key):
        return key
    raise InvalidField(
        "key",
        f"must be at most {MAX_KEY_BYTES} letters, digits, dots, underscores, hyphens and single slashes, "
        "with no dot at the start of a segment and at most 255 bytes in each",
    )


def name_behind(prefix: str, key: object) -> str:
    """The name in a bucket of a `key` behind `prefix`. Raises InvalidField("key")."""
    name = prefix + check_key(key)
    if len(name) > MAX_KEY_BYTES:
        raise InvalidField("key", f"must leave room for the store's prefix in {MAX_KEY_BYTES} bytes")
    return name


def is_segment(name: str) -> bool:
    """Whether `name` may stand between two slashes of a key."""
    return _SEGMENT_ALONE.fullmatch(name) is not None


def check_prefix(prefix: object, field: str = "prefix") -> str:
    """Return `prefix` if some key may begin with it, else raise InvalidField(field)."""
    if isinstance(prefix, str) and len(prefix) <= MAX_KEY_BYTES and _PREFIX.fullmatch(prefix):
        return prefix
    raise InvalidField(field, "must be empty or the beginning of a key")


def check_expiry(expires_s: object) -> int:
    """Return `expires_s` if a signed URL may be valid for so many seconds, else raise InvalidField."""
    if isinstance(expires_s, int) and not isinstance(expires_s, bool) and 1 <= expires_s <= MAX_EXPIRY_S:
        return expires_s
    raise InvalidField("expires_s", f"must be a whole number of seconds from 1 to {MAX_EXPIRY_S}")


def check_method(method: object) -> Method:
    """Return `method` if a URL can be signed for it, else raise InvalidField."""
    if method == "GET":
        return "GET"
    if method == "PUT":
        return "PUT"
    raise InvalidField("method", "must be GET or PUT")
