"""Times as they stand in records: whole milliseconds since the epoch.

Not as dates: the stand-in for MongoDB turns a date that an update sets into text, which no query finds again.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def rfc3339(ms: int | None) -> str | None:
    """A time of a record as clients read it: UTC with milliseconds."""
    if ms is None:
        return None
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
