"""The instances that draw, behind nginx: one `POST /inference`, never sent twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from enlight_common.schemas.claims import TENANT_HEADER

from main_api.outgoing import Broken, NothingDone, post

_MAX_ANSWER_BYTES = 600_000_000


class Refused(Exception):
    """The service says that the request cannot be done; `type` and `message` are its problem's."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type
        self.message = message


@dataclass(frozen=True)
class InstanceClient:
    """Speaks to nginx at `url`. A connection for each picture, so that closing it tells that nobody waits."""

    url: str
    timeout_s: float

    def draw(
        self, tenant: str, body: dict[str, Any], headers: dict[str, str], stop: Callable[[], bool]
    ) -> dict[str, Any]:
        """The answer of `POST /inference`; given up when *stop* says so.

        Raises NothingDone (503, or nobody there), Refused (another 4xx or 5xx with a problem), Broken,
        Stopped.
        """
        answer = post(
            f"{self.url.rstrip('/')}/inference",
            json.dumps(body).encode(),
            {TENANT_HEADER: tenant, **headers},
            timeout_s=self.timeout_s,
            max_bytes=_MAX_ANSWER_BYTES,
            stop=stop,
        )
        return _parse(answer.status, answer.body)


def _parse(status: int, raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    document: dict[str, Any] = found if isinstance(found, dict) else {}
    if status == 200 and isinstance(document.get("images"), list):
        return document
    if status in (429, 503):
        raise NothingDone("no instance is free")
    if status in (200, 499, 500, 502, 504):
        raise Broken(f"status {status}")
    kind = str(document.get("type", "")).removeprefix("/problems/") or "refused"
    raise Refused(kind[:64], str(document.get("message", f"the instance answered {status}"))[:2000])
