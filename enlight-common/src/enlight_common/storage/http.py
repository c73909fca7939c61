"""The HTTP client behind granted stores: one attempt each, every wait bounded, errors as ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3

from enlight_common.errors import (
    Conflict,
    EnlightError,
    NoSuchObject,
    PayloadTooLarge,
    StorageFull,
    StoreDenied,
    StoreUnavailable,
)
from enlight_common.storage.attempts import TRANSIENT_STATUSES
from enlight_common.storage.interface import StorageLimits
from enlight_common.storage.slices import Slice

_MAX_ANSWER_BYTES = 4_000_000  # a page of a thousand keys of a thousand bytes, and their numbers
_MAX_REDIRECTS = 3
_BLOCK = 256 * 1024


class Client:
    """Connections are kept and shared by threads."""

    def __init__(self, limits: StorageLimits) -> None:
        self._pool = urllib3.PoolManager(
            maxsize=limits.parallel,
            timeout=urllib3.Timeout(connect=limits.connect_s, read=limits.read_s),
            retries=False,
            blocksize=_BLOCK,
        )

    def ask(self, method: str, url: str, headers: Mapping[str, str], question: Any = None) -> Any:
        """What the issuer answers in JSON, or None for an empty answer. `headers` hold the node key, so
        redirects are not followed. Raises as `refusal`.
        """
        body = None if question is None else json.dumps(question).encode()
        sent = {**headers, "Accept": "application/json"}
        if body is not None:
            sent["Content-Type"] = "application/json"
        with self._send(method, url, sent, body) as answer:
            if not 200 <= answer.status < 300:
                raise refusal(answer.status)
            data = answer.read(_MAX_ANSWER_BYTES + 1)
        try:
            if len(data) > _MAX_ANSWER_BYTES:
                raise ValueError("too long")
            return json.loads(data) if data else None
        except (ValueError, RecursionError) as error:
            raise StoreUnavailable("the issuer's answer is no JSON") from error

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Slice | None = None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer at a signed URL, of any status, its body unread. Redirects are followed where the
        scheme stays the same and the method may.
        """
        for _ in range(_MAX_REDIRECTS):
            with self._send(method, url, headers, body) as answer:
                kept = (301, 302, 307, 308) if method == "GET" else (307, 308)
                location = answer.headers.get("Location", "")
                elsewhere = urljoin(url, location)
                if (
                    answer.status not in kept
                    or not location
                    or urlsplit(elsewhere).scheme != urlsplit(url).scheme
                ):
                    yield answer
                    return
            url = elsewhere
            if body is not None:
                body.seek(0)
        raise StoreDenied("the signed URL redirects again and again")

    @contextlib.contextmanager
    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: Any
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        with _as_store_errors():
            answer = self._pool.request(
                method, url, headers=dict(headers), body=body, preload_content=False, redirect=False
            )
            try:
                yield answer
                # A short rest is read, so that the connection can be used again.
                if answer.length_remaining is not None and answer.length_remaining <= _BLOCK:
                    answer.drain_conn()
                else:
                    answer.close()
            except BaseException:
                answer.close()
                raise
            finally:
                answer.release_conn()


def refusal(status: int) -> EnlightError:
    """The error for a status that is no success."""
    if status == 404:
        return NoSuchObject("there is no object under this key")
    if status == 409:
        return Conflict("the key does not fit the objects that are there")
    if status == 413:
        return PayloadTooLarge("the object is larger than the store takes")
    if status == 507:
        return StorageFull("there is no room left in the store")
    if status in TRANSIENT_STATUSES:
        return StoreUnavailable(f"the object store answers {status}")
    return StoreDenied(f"the object store refuses with {status}")


@contextlib.contextmanager
def _as_store_errors() -> Iterator[None]:
    """The one place where urllib3's errors become errors of ours."""
    try:
        yield
    except urllib3.exceptions.HTTPError as error:
        raise StoreUnavailable("the object store cannot be reached, or does not answer in time") from error
    except OSError as error:
        raise StoreUnavailable("the connection to the object store failed") from error
