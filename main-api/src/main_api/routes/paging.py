"""Pages of records: a cursor is the id that a page ended with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Record = TypeVar("Record")


def after_cursor(cursor: str | None) -> dict[str, Any]:
    """The condition for what comes after `cursor`, newest first: ids sort by time."""
    return {"_id": {"$lt": cursor}} if cursor is not None else {}


def page_of(
    found: Sequence[Record], limit: int, id_of: Callable[[Record], str]
) -> tuple[Sequence[Record], str | None]:
    """The page and the next one's cursor, of what was found when `limit` + 1 were looked for."""
    page = found[:limit]
    return page, id_of(page[-1]) if len(found) > limit else None
