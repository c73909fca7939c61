"""Published weights, fetched when they are first needed, where that is allowed."""

from __future__ import annotations

from pathlib import Path

from enlight_common.errors import EnlightError, InvalidField
from enlight_common.fetching import BeingFetched, Fetches
from enlight_common.queue import Stop
from enlight_common.weights import Weight, fetch

_DEADLINE_S = 300.0  # the largest file has 350 MB


def obtain(
    weight: Weight, folder: Path, fetches: Fetches | None, field: str, stop: Stop, *, patient: bool = False
) -> None:
    """Have *weight*, which is not there, put into *folder*; *fetches* is None where nothing may be fetched.

    Raises:
        InvalidField: *field* needs it, and it could not be fetched.
        BeingFetched: that takes longer than a request waits; *patient* waits on.
        Canceled: *stop* said so.
    """
    reason = f"needs the weights {weight.file}, which are not here"
    if fetches is None:
        raise InvalidField(field, reason)

    def fetch_it() -> None:
        fetch(weight, folder, deadline_s=_DEADLINE_S)

    try:
        fetches.get(weight.name, fetch_it, stop, patient=patient)
    except BeingFetched:
        raise
    except EnlightError as error:
        raise InvalidField(field, f"{reason} and could not be fetched") from error
