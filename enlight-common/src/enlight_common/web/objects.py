"""An object store over HTTP, for machines that hold a node key and no credentials of a bucket.

The client is `enlight_common.storage.granted`, whose docstring lists the routes. A URL is asked for with the
node key and used without it: that of a cloud leads to the cloud, that of a folder to `bytes/<key>` here.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import os
import re
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from flask import Blueprint, Response, after_this_request, current_app, jsonify, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import FileWrapper, get_input_stream

from enlight_common.errors import (
    Forbidden,
    InvalidField,
    InvalidRequest,
    LengthRequired,
    NoSuchObject,
    PayloadTooLarge,
    RangeNotSatisfiable,
)
from enlight_common.storage.folder import FolderStore
from enlight_common.storage.grants import MAX_PAGE, Entry, Grant, Page, UrlRequest
from enlight_common.storage.interface import ObjectInfo, ObjectStore, check_expiry, check_key, check_prefix
from enlight_common.storage.signing import BYTES_PATH, UrlSigner
from enlight_common.web.body_gate import Arrival, BodyGate
from enlight_common.web.openapi import documented
from enlight_common.web.parsing import arriving, client_of_request, deadline, parse_body

_TYPE = "application/octet-stream"
#: Small enough that the pace of a slow client is known soon.
_CHUNK = 64 * 1024
#: An object has the app's `body_seconds` and this much more time for its bytes: 800 kbit/s.
_LEAST_BYTES_PER_S = 100_000

#: Stores what is put: key, size and the bytes. Raises what the client is to be told.
Receive = Callable[[str, int, BinaryIO], None]


def objects_blueprint(
    store: ObjectStore,
    signer: UrlSigner | None,
    authorize: Callable[[], None],
    *,
    url_expires_s: int = 3600,
    max_object_bytes: int = 64 * 1024**3,
    name: str = "objects",
    prefixes: tuple[str, ...] = ("",),
) -> Blueprint:
    """The routes for `store`, to be registered under the path of the signer's `base_url`.

    `authorize` raises Unauthorized or Forbidden unless the current request may do what it asks; it stands
    before every route but `bytes`, where the signature is the permission. With a folder store `signer` is
    the one that the store was opened with; clouds sign for themselves and need none. `url_expires_s` is how
    long the URLs are valid, `max_object_bytes` bounds what may be put through `bytes`. Keys that begin with
    none of `prefixes` are refused with 403.
    """
    check_expiry(url_expires_s)

    def permit(key: str) -> str:
        if not key.startswith(prefixes):
            raise Forbidden("objects under this key are not for you")
        return key

    blueprint = Blueprint(name, __name__)

    @blueprint.post("/urls")
    @documented("Grant one transfer", body=UrlRequest, answers={200: Grant}, tags=["objects"])
    def grant() -> Response:
        """A signed URL for one method on one object."""
        authorize()
        asked = parse_body(UrlRequest)
        expires = datetime.datetime.fromtimestamp(int(time.time()) + url_expires_s, datetime.UTC)
        url = store.signed_url(permit(check_key(asked.key)), asked.method, url_expires_s)
        return _json(Grant(url=url, expires_at=expires.isoformat().replace("+00:00", "Z")))

    @blueprint.get("/objects")
    @documented("List objects", answers={200: Page}, tags=["objects"])
    def page() -> Response:
        """Objects whose keys begin with `prefix` and sort behind `after`, at most `limit` of them."""
        authorize()
        limit = _limit(request.args.get("limit", str(MAX_PAGE)))
        prefix = permit(check_prefix(request.args.get("prefix", "")))
        after = check_prefix(request.args.get("after", ""), "after")
        found = [_entry(info) for info in itertools.islice(store.list(prefix, after=after), limit + 1)]
        more = len(found) > limit
        return _json(Page(objects=found[:limit], next=found[limit - 1].key if more else None))

    @blueprint.delete("/objects/<path:key>")
    @documented("Delete an object", answers={204: None}, tags=["objects"])
    def delete(key: str) -> tuple[str, int]:
        """Nothing happens when there is none."""
        authorize()
        store.delete(permit(key))
        return "", 204

    @blueprint.get("/stat/<path:key>")
    @documented("Describe an object", answers={200: Entry}, tags=["objects"])
    def describe(key: str) -> Response:
        authorize()
        info = store.stat(permit(key))
        if info is None:
            raise NoSuchObject("there is no object under this key")
        return _json(_entry(info))

    if isinstance(store, FolderStore) and signer is not None:
        _add_bytes(blueprint, store, signer, max_object_bytes)
    return blueprint


def signed_bytes_blueprint(
    folder: FolderStore,
    signer: UrlSigner,
    *,
    max_object_bytes: int,
    name: str,
    gate: BodyGate | None = None,
    receive: Receive | None = None,
) -> Blueprint:
    """The routes behind signed URLs alone, to be registered under the path of the signer's `base_url`.

    `gate` bounds how many objects are on their way at the same time, in either direction; `receive` stores
    what is put, where that is not for the folder alone to decide.
    """
    blueprint = Blueprint(name, __name__)
    _add_bytes(blueprint, folder, signer, max_object_bytes, gate, receive)
    return blueprint


def _add_bytes(
    blueprint: Blueprint,
    folder: FolderStore,
    signer: UrlSigner,
    max_bytes: int,
    gate: BodyGate | None = None,
    receive: Receive | None = None,
) -> None:
    store = receive or _folder_put(folder)

    def permit(method: str, key: str) -> None:
        signer.verify(method, key, request.args.get("expires", ""), request.args.get("signature", ""))
        check_key(key)

    @blueprint.get(f"/{BYTES_PATH}/<path:key>")
    @documented("Read an object", answers={200: _TYPE, 206: _TYPE}, tags=["objects"])
    def read(key: str) -> Response:
        """Needs a signed URL. Takes a single range."""
        permit("GET", key)
        return _send(folder.open(key), gate)

    @blueprint.put(f"/{BYTES_PATH}/<path:key>")
    @documented("Write an object", answers={204: None}, tags=["objects"])
    def write(key: str) -> tuple[str, int]:
        """Needs a signed URL and a Content-Length. Whole or not at all."""
        permit("PUT", key)
        size = request.content_length
        if size is None:
            raise LengthRequired("the body must be sent with a Content-Length")
        if size > max_bytes:
            raise PayloadTooLarge(f"the body must be at most {max_bytes} bytes")
        with arriving(_seconds_for(size), gate) as arrival:
            store(key, size, cast(BinaryIO, io.BufferedReader(_Body(size, arrival), 1024 * 1024)))
        return "", 204


def _folder_put(folder: FolderStore) -> Receive:
    """Whatever is put is stored."""
    return lambda key, size, source: folder.put(key, source, size)


def _seconds_for(size: int) -> float:
    """How long an object of so many bytes may be on its way."""
    seconds: float = current_app.config["BODY_SECONDS"]
    return seconds + size / _LEAST_BYTES_PER_S


def _send(file: BinaryIO, gate: BodyGate | None) -> Response:
    """The open file, or the one range of it that was asked for; it is closed after the answer."""
    state = os.fstat(file.fileno())
    size = state.st_size
    client = client_of_request()
    with contextlib.ExitStack() as place:
        place.callback(file.close)
        leaving = place.enter_context(
            gate.enter(client, sending=True)
            if gate is not None
            else contextlib.nullcontext(Arrival(client, sending=True))
        )
        place.enter_context(deadline(leaving, _seconds_for(size)))
        response = _answer(file, state, leaving)
        # The place is held until the last byte was taken.
        response.call_on_close(place.pop_all().close)
    return response


def _answer(file: BinaryIO, state: os.stat_result, leaving: Arrival) -> Response:
    size = state.st_size
    # Not the server's own wrapper: gunicorn's cannot seek, so a range would be read from the beginning.
    # Nor passed through, which would leave out what is to be done when the response is closed.
    response = Response(_Sent(file, leaving), mimetype=_TYPE)
    response.content_length = size
    response.last_modified = datetime.datetime.fromtimestamp(state.st_mtime, datetime.UTC)
    # An object is never changed in place: another one is another file.
    response.set_etag(f"{state.st_ino:x}-{state.st_mtime_ns:x}-{size:x}")
    response.headers["Cache-Control"] = "private, no-store"
    try:
        response.make_conditional(request.environ, accept_ranges=True, complete_length=size)
    except RequestedRangeNotSatisfiable as error:

        @after_this_request
        def tell_size(answer: Response) -> Response:
            answer.headers["Content-Range"] = f"bytes */{size}"
            return answer

        raise RangeNotSatisfiable("the range must be a single one that begins inside the object") from error
    return response


class _Sent(FileWrapper):
    """A file that counts what a client has taken of it."""

    def __init__(self, file: BinaryIO, leaving: Arrival) -> None:
        super().__init__(file, _CHUNK)
        self._leaving = leaving
        self._last = 0

    def __next__(self) -> bytes:
        # Whoever asks for more has sent what came before.
        self._leaving.received += self._last
        chunk = super().__next__()
        self._last = len(chunk)
        return chunk


class _Body(io.RawIOBase):
    """The current request's body, `size` bytes; fewer are an InvalidRequest."""

    def __init__(self, size: int, arrival: Arrival) -> None:
        request.max_content_length = size  # the app's own bound is for bodies that are held in memory
        self._arrival = arrival
        self._missing = size
        self._stream = get_input_stream(request.environ, max_content_length=size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._missing:
            return 0
        try:
            chunk = self._stream.read(min(len(buffer), self._missing, _CHUNK))
        except Exception as error:  # broken connections, each with gunicorn's own class
            raise InvalidRequest("the body could not be read") from error
        if not chunk and self._missing:
            raise InvalidRequest("the body ended before its length")
        self._missing -= len(chunk)
        self._arrival.received += len(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _limit(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= MAX_PAGE:
        return int(text)
    raise InvalidField("limit", f"must be a whole number from 1 to {MAX_PAGE}")


def _entry(info: ObjectInfo) -> Entry:
    return Entry(key=info.key, size=info.size, modified=info.modified)


def _json(model: Entry | Grant | Page) -> Response:
    response = jsonify(model.model_dump())
    response.headers["Cache-Control"] = "no-store"
    return response
