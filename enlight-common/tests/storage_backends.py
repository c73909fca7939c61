"""What the tests of the stores run on: the kinds of store, and how patient they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from enlight_common.storage import ObjectStore, StorageLimits

BUCKET = "enlight-tests"
# As in service but for the waiting: no test waits for these on a good day.
LIMITS = StorageLimits(backoff_s=0.01, max_backoff_s=0.05)


@dataclass
class Backend:
    """A kind of store that a test runs on. `open` takes an address that stands before the server's own."""

    name: str
    open: Callable[[StorageLimits, str], ObjectStore]
    port: int = 0
    # Whether a request, by method and path, moves an object's bytes down, or up.
    is_get: Callable[[str, str], bool] = field(default=lambda method, path: False)
    is_put: Callable[[str, str], bool] = field(default=lambda method, path: False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"
