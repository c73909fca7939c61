"""Whether a service can do its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Readiness:
    """Whether the service can do its work, why not, and which dependencies it is without."""

    ready: bool
    message: str = ""
    missing: Sequence[str] = ()
