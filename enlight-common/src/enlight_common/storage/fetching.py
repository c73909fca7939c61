"""Ranges of one object from a granted URL."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import urllib3

from enlight_common.errors import StoreUnavailable
from enlight_common.storage.download import Changed, Remote, Sink
from enlight_common.storage.grants import Grant
from enlight_common.storage.http import Client, refusal

EXPIRED = (401, 403)  # what a signed URL answers that was good when it was issued
_CHUNK = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
# Not there any more, another one, or shorter than the range.
_CHANGED = (404, 412, 416)


class Fetcher:
    """A `Fetch` for one object. All parts share one URL, and a new one is asked for when it has expired.

    The first answer's entity tag is that of the object; a part with another one does not belong to it.
    """

    def __init__(self, http: Client, ask: Callable[[], Grant]) -> None:
        self._http = http
        self._ask = ask
        self._lock = threading.Lock()
        self._grant: Grant | None = None
        self._remote: Remote | None = None
        self._tag: str | None = None

    def __call__(self, remote: Remote, sink: Sink) -> None:
        refused: Grant | None = None
        while True:
            grant = self._granted(refused)
            headers = {**grant.headers, "Range": f"bytes={sink.done}-{sink.end - 1}"}
            with self._http.request("GET", grant.url, headers) as answer:
                if answer.status in EXPIRED and refused is None:
                    refused = grant
                    continue
                self._check(answer, remote, sink)
                # What has arrived, and not a whole chunk: of a trickle the sink should hear.
                while chunk := answer.read1(_CHUNK, decode_content=False):
                    sink.write(chunk)
                return

    def _granted(self, refused: Grant | None) -> Grant:
        with self._lock:
            if self._grant is None or self._grant is refused:
                self._grant = self._ask()
            return self._grant

    def _check(self, answer: urllib3.BaseHTTPResponse, remote: Remote, sink: Sink) -> None:
        """Raise unless the answer is the range, of the same object as the parts before."""
        if answer.status in _CHANGED:
            raise Changed
        if answer.status not in (200, 206):
            raise refusal(answer.status)
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise StoreUnavailable("the object store compresses what it sends")
        if answer.status == 200:
            self._check_whole(answer, remote, sink)
        else:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            first, _, total = (int(number) for number in found.groups()) if found else (-1, -1, -1)
            if total != remote.size:
                raise Changed
            if first != sink.done:
                raise StoreUnavailable("the object store sent another range than it was asked for")
        self._check_tag(answer.headers.get("ETag"), remote)

    def _check_whole(self, answer: urllib3.BaseHTTPResponse, remote: Remote, sink: Sink) -> None:
        # A server may ignore the range; for what is only a part that would be the wrong bytes.
        if sink.done != 0 or sink.end != remote.size:
            raise StoreUnavailable("the object store does not send ranges")
        if answer.headers.get("Content-Length", str(remote.size)) != str(remote.size):
            raise Changed

    def _check_tag(self, tag: str | None, remote: Remote) -> None:
        with self._lock:
            if self._remote is not remote:
                self._remote, self._tag = remote, tag
            if self._tag != tag:
                raise Changed
