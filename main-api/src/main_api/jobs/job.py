"""A job as it stands in its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from main_api.jobs.states import TERMINAL, Kind, Status


@dataclass(frozen=True)
class Job:
    """One document of the collection `jobs`. Times are milliseconds since the epoch."""

    id: str
    tenant: str
    kind: Kind
    status: Status
    #: What the caller asked for, as it is shown; pictures are only named here.
    input: dict[str, Any]
    #: The body for the service that does it, without its pictures, and the service's address below its URL.
    task: dict[str, Any]
    #: Object keys of its pictures by field: {"photos": [...]} or {"image": key, "mask": key}.
    files: dict[str, Any]
    created_at: int
    base_model: str | None = None
    #: Ids of the trained models it draws with, or makes.
    models: list[str] = field(default_factory=list)
    output: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    logs: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Pictures that are stored already, and the revision at which each came.
    pictures: list[dict[str, Any]] = field(default_factory=list)
    #: Pictures that a worker was given URLs to put, under the present fencing number.
    offered: list[dict[str, Any]] = field(default_factory=list)
    started_at: int | None = None
    completed_at: int | None = None
    not_before: int = 0
    attempts: int = 0
    fencing: int = 0
    lease_until: int = 0
    worker: str | None = None
    cancel_requested: bool = False
    revision: int = 1
    #: Of a chain's step: the chain, and which step it is.
    parent: str | None = None
    step: int | None = None
    #: Of a chain: [{"kind", "input", "task"}], and its steps' jobs as they are made.
    steps: list[dict[str, Any]] = field(default_factory=list)
    #: {"url", "events"}; `webhook_due` is when the next attempt to send is due, 0 when nothing is owed.
    webhook: dict[str, Any] | None = None
    webhook_due: int = 0
    #: Which façade it came through, for what only that one shows.
    origin: dict[str, Any] = field(default_factory=dict)
    key_id: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    fingerprint: str | None = None

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def keys(self) -> set[str]:
        """The object keys of its pictures, those it was given and those it made."""
        return object_keys(self.files, self.pictures)

    def document(self) -> dict[str, Any]:
        """As it is stored."""
        found = {name: getattr(self, name) for name in _FIELDS}
        found["_id"] = found.pop("id")
        return found

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Job:
        """The job behind a document; fields that are newer than this code are left out."""
        values = {name: document[name] for name in _FIELDS if name in document}
        return cls(id=document["_id"], **values)


_FIELDS = tuple(one.name for one in dataclasses.fields(Job))


def object_keys(files: Mapping[str, str | Sequence[str]], pictures: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys of the pictures that a job was given and of those it made."""
    found = {str(one["key"]) for one in pictures}
    for value in files.values():
        found.update([value] if isinstance(value, str) else value)
    return found
