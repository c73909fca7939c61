"""The instances that draw, behind nginx: one `POST /inference`, never sent twice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import urllib3
from enlight_common.errors import Unavailable
from enlight_common.schemas.claims import TENANT_HEADER

_CONNECT_S = 2.0
_MAX_ANSWER_BYTES = 600_000_000
_CHUNK = 1024 * 1024
_CONNECTIONS = 256


class NothingDone(Unavailable):
    """No instance took the request: it may be sent again, to any."""


class Refused(Exception):
    """The instance says that the request cannot be done; `type` and `message` are its problem's."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type
        self.message = message


class Broken(Exception):
    """The request may have run, and nobody knows."""


@dataclass(frozen=True)
class InstanceClient:
    """Speaks to nginx at `url`. Connections are kept alive, and nothing is tried again."""

    url: str
    timeout_s: float
    pool: urllib3.PoolManager

    @classmethod
    def at(cls, url: str, timeout_s: float) -> InstanceClient:
        pool = urllib3.PoolManager(
            num_pools=2,
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout_s),
            retries=False,
        )
        return cls(url.rstrip("/"), timeout_s, pool)

    def draw(self, tenant: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """The answer of `POST /inference`.

        Raises NothingDone (503, or nobody there), Refused (another 4xx or 5xx with a problem), Broken.
        """
        try:
            answer = self.pool.request(
                "POST",
                f"{self.url}/inference",
                body=json.dumps(body).encode(),
                headers={"Content-Type": "application/json", TENANT_HEADER: tenant, **headers},
                preload_content=False,
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
            raise NothingDone("no instance can be reached") from error
        except urllib3.exceptions.HTTPError as error:
            raise Broken(type(error).__name__) from error
        try:
            raw = _read(answer)
        except urllib3.exceptions.HTTPError as error:
            raise Broken(type(error).__name__) from error
        finally:
            answer.release_conn()
        return _parse(answer.status, raw)


def _read(answer: urllib3.BaseHTTPResponse) -> bytes:
    chunks, received = [], 0
    for chunk in answer.stream(_CHUNK):
        chunks.append(chunk)
        received += len(chunk)
        if received > _MAX_ANSWER_BYTES:
            answer.close()
            raise Broken("an answer without end")
    return b"".join(chunks)


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
