"""Objects behind signed URLs, for machines that hold no credentials of a bucket.

    POST   <base>/urls {"method", "key"}                    a URL for one transfer
    GET    <base>/objects?prefix=…&after=…&limit=…          one page of the list
    DELETE <base>/objects/<key>
    GET    <base>/stat/<key>

An issuer (`enlight_common.web.objects`) answers these to whoever holds a node key. The bytes then go straight
from and to the URL, which never gets to see that key.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urlencode

from enlight_common.errors import NoSuchObject, SigningUnavailable, StoreDenied
from enlight_common.storage.attempts import retrying
from enlight_common.storage.copying import check_source
from enlight_common.storage.download import Remote, download, read
from enlight_common.storage.fetching import EXPIRED, Fetcher
from enlight_common.storage.grants import Entry, Grant, Page, check_page, parse
from enlight_common.storage.http import Client, refusal
from enlight_common.storage.interface import (
    Method,
    ObjectInfo,
    StorageLimits,
    check_expiry,
    check_key,
    check_method,
    check_prefix,
)
from enlight_common.storage.slices import Slice

NODE_KEY_VARIABLE = "ENLIGHT_NODE_KEY"
_PAGE = 1000


class GrantedStore:
    """An ObjectStore at the issuer's `base` URL. Lengths are verified; that bytes are the right ones is left
    to TLS and to the caller's checksums, as URLs of any store may come from the issuer.

    `node_key` is ENLIGHT_NODE_KEY of the environment when it is not given. Raises StoreDenied without one.
    """

    def __init__(self, base: str, *, node_key: str | None = None, limits: StorageLimits) -> None:
        key = os.environ.get(NODE_KEY_VARIABLE, "") if node_key is None else node_key
        if not key or not key.isascii() or not key.isprintable():
            raise StoreDenied(f"{NODE_KEY_VARIABLE} is not set, or not printable ASCII")
        self._base = base.rstrip("/")
        self._limits = limits
        self._http = Client(limits)
        self._headers = {"Authorization": f"Bearer {key}"}

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        check_key(key)
        body = Slice(source, check_source(source, size), size)

        def send() -> None:
            for again in (False, True):
                grant = self.grant(key, "PUT")
                headers = {**grant.headers, "Content-Length": str(size)}
                body.seek(0)
                with self._http.request("PUT", grant.url, headers, body=body) as answer:
                    if answer.status in EXPIRED and not again:
                        continue
                    if answer.status not in (200, 201, 204):
                        raise refusal(answer.status)
                    return

        retrying(self._limits, send)

    def get(self, key: str, target: BinaryIO, *, size: int | None = None) -> int:
        check_key(key)
        describe = functools.partial(self._describe, key)
        return download(target, describe, self._fetcher(key), self._limits, size=size)

    def read(self, key: str, max_bytes: int) -> bytes:
        check_key(key)
        describe = functools.partial(self._describe, key)
        return read(describe, self._fetcher(key), self._limits, max_bytes)

    def stat(self, key: str) -> ObjectInfo | None:
        check_key(key)
        try:
            return self._found(key)
        except NoSuchObject:
            return None

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        check_prefix(after, "after")
        return self._list(prefix, after)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        following: str | None = after
        while following is not None:
            query = urlencode({"prefix": prefix, "after": following, "limit": _PAGE})
            page = parse(Page, self._ask("GET", f"/objects?{query}"))
            check_page(page, prefix, following)
            for entry in page.objects:
                yield ObjectInfo(entry.key, entry.size, entry.modified)
            following = page.next

    def delete(self, key: str) -> None:
        check_key(key)
        with contextlib.suppress(NoSuchObject):
            self._ask("DELETE", f"/objects/{key}")

    def signed_url(self, key: str, method: Method, expires_s: int) -> str:
        """Always SigningUnavailable: what the issuer grants is for this machine alone."""
        check_key(key)
        check_method(method)
        check_expiry(expires_s)
        raise SigningUnavailable("only the issuer can sign URLs")

    def grant(self, key: str, method: Method) -> Grant:
        """A URL from the issuer, asked for once. Raises StoreUnavailable, StoreDenied, NoSuchObject."""
        question = {"method": method, "key": key}
        return parse(Grant, self._http.ask("POST", f"{self._base}/urls", self._headers, question))

    def _ask(self, method: str, path: str) -> Any:
        return retrying(self._limits, lambda: self._http.ask(method, self._base + path, self._headers))

    def _found(self, key: str) -> ObjectInfo:
        entry = parse(Entry, self._ask("GET", f"/stat/{key}"))
        return ObjectInfo(key, entry.size, entry.modified)

    def _describe(self, key: str) -> Remote:
        return Remote(self._found(key).size)

    def _fetcher(self, key: str) -> Fetcher:
        return Fetcher(self._http, lambda: self.grant(key, "GET"))
