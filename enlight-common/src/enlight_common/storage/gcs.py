"""Objects in a Google Cloud Storage bucket."""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import http.client
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import google.api_core.exceptions
import google.auth.credentials
import google.auth.exceptions
import google.cloud.storage
import google.cloud.storage.exceptions
import google_crc32c
import requests
import urllib3

from enlight_common.errors import (
    EnlightError,
    NoSuchObject,
    SigningUnavailable,
    StoreCorrupt,
    StoreDenied,
    StoreUnavailable,
)
from enlight_common.storage.attempts import TRANSIENT_STATUSES, retrying
from enlight_common.storage.copying import check_source
from enlight_common.storage.download import Changed, Remote, Sink, download, read
from enlight_common.storage.interface import (
    Method,
    ObjectInfo,
    StorageLimits,
    check_expiry,
    check_method,
    check_prefix,
    name_behind,
)
from enlight_common.storage.slices import Slice

_PAGE = 1000  # what one answer holds at most
_UPLOAD_CHUNK = 16 * 1024 * 1024  # held in memory for another attempt; the library's own is 100 MiB
# The library would otherwise look up the bucket's project for its traces, in a thread of its own that nobody
# waits for, with a permission that an object's reader need not have.
_NO_BACKGROUND_REQUESTS = ("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
_FIELDS = "items(name,size,updated),nextPageToken"


class GcsStore:
    """An ObjectStore in `bucket`, every key behind `prefix` ("" or "a/b/").

    Credentials are those that Google's libraries find: GOOGLE_APPLICATION_CREDENTIALS, or the machine's.
    STORAGE_EMULATOR_HOST, with its scheme, names an emulator that takes anybody. Signing needs the key of a
    service account. Raises StoreDenied when there are no credentials.
    """

    def __init__(self, bucket: str, prefix: str = "", *, limits: StorageLimits) -> None:
        self._prefix = prefix
        self._limits = limits
        self._timeout = (limits.connect_s, limits.read_s)
        os.environ.setdefault(*_NO_BACKGROUND_REQUESTS)
        with _as_store_errors():
            self._client: Any = google.cloud.storage.Client()
            self._bucket: Any = self._client.bucket(bucket)

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        blob = self._blob(key)
        blob.chunk_size = _UPLOAD_CHUNK
        body = Slice(source, check_source(source, size), size)
        with _as_store_errors(), _bucket_is_there():
            # From 8 MiB on a resumable upload; then this is about one chunk of it.
            blob.upload_from_file(
                body,
                size=size,
                content_type="application/octet-stream",
                timeout=self._timeout,
                retry=self._retrying,
            )

    def get(self, key: str, target: BinaryIO, *, size: int | None = None) -> int:
        blob = self._blob(key)
        return download(
            target, functools.partial(self._describe, blob), self._fetcher(blob), self._limits, size=size
        )

    def read(self, key: str, max_bytes: int) -> bytes:
        blob = self._blob(key)
        return read(functools.partial(self._describe, blob), self._fetcher(blob), self._limits, max_bytes)

    def stat(self, key: str) -> ObjectInfo | None:
        blob = self._blob(key)
        try:
            with _as_store_errors():
                self._load(blob)
                return ObjectInfo(key, int(blob.size), blob.updated.timestamp())
        except NoSuchObject:
            return None

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        check_prefix(after, "after")
        return self._list(prefix, after)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        with _as_store_errors(), _bucket_is_there():
            blobs = self._client.list_blobs(
                self._bucket,
                prefix=self._prefix + prefix,
                start_offset=self._prefix + after if after else None,
                page_size=_PAGE,
                fields=_FIELDS,
                timeout=self._timeout,
                retry=self._retrying,
            )
            for blob in blobs:
                key = blob.name.removeprefix(self._prefix)
                if key > after:
                    yield ObjectInfo(key, int(blob.size), blob.updated.timestamp())

    def delete(self, key: str) -> None:
        blob = self._blob(key)
        with contextlib.suppress(NoSuchObject), _as_store_errors():
            blob.delete(timeout=self._timeout, retry=self._retrying)

    def signed_url(self, key: str, method: Method, expires_s: int) -> str:
        blob = self._blob(key)
        check_method(method)
        check_expiry(expires_s)
        if not isinstance(self._client._credentials, google.auth.credentials.Signing):
            raise SigningUnavailable("signing needs the key of a service account")
        with _as_store_errors():
            return str(
                blob.generate_signed_url(
                    version="v4", method=method, expiration=datetime.timedelta(seconds=expires_s)
                )
            )

    def _blob(self, key: str) -> Any:
        return self._bucket.blob(name_behind(self._prefix, key))

    def _load(self, blob: Any) -> None:
        blob.reload(timeout=self._timeout, retry=self._retrying)

    def _describe(self, blob: Any) -> Remote:
        with _as_store_errors():
            self._load(blob)
            size, version = int(blob.size), str(blob.generation)
            if blob.crc32c is None:
                return Remote(size, version)
            return Remote(size, version, google_crc32c.Checksum, base64.b64decode(blob.crc32c))

    def _fetcher(self, blob: Any) -> Callable[[Remote, Sink], None]:
        def fetch(remote: Remote, sink: Sink) -> None:
            generation = int(remote.version)
            try:
                with _as_store_errors():
                    self._bucket.blob(blob.name, generation=generation).download_to_file(
                        sink,
                        start=sink.done,
                        end=sink.end - 1,
                        raw_download=True,
                        checksum=None,  # ranges have none; the whole is checked at the end
                        timeout=self._timeout,
                        retry=None,
                    )
            except NoSuchObject as error:
                raise Changed from error

        return fetch

    def _retrying(self, request: Callable[[], Any]) -> Callable[[], Any]:
        """Stands where the library takes one of its own Retry objects, which only know deadlines."""

        def attempt() -> Any:
            with _as_store_errors():
                return request()

        return functools.partial(retrying, self._limits, attempt)


@contextlib.contextmanager
def _as_store_errors() -> Iterator[None]:
    """The one place where what Google's libraries raise becomes an error of ours."""
    try:
        yield
    except (EnlightError, Changed):
        raise
    except google.cloud.storage.exceptions.InvalidResponse as error:
        raise _of_status(error.response.status_code) from error
    except google.api_core.exceptions.GoogleAPICallError as error:
        raise _of_status(error.code or 500) from error
    except google.cloud.storage.exceptions.DataCorruption as error:
        raise StoreCorrupt("gs: the object arrived with another checksum; it was not kept") from error
    except google.auth.exceptions.TransportError as error:
        raise StoreUnavailable("gs: the credentials could not be renewed") from error
    except google.auth.exceptions.GoogleAuthError as error:
        if error.retryable:
            raise StoreUnavailable("gs: the credentials could not be renewed") from error
        raise StoreDenied("gs: there are no valid credentials") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
        raise _unreachable() from error
    except OSError as error:
        raise _unreachable() from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreUnavailable("gs: the object store's answer is not the expected one") from error


@contextlib.contextmanager
def _bucket_is_there() -> Iterator[None]:
    """Around what needs no object: then it is the bucket that was not found."""
    try:
        yield
    except NoSuchObject as error:
        raise StoreDenied("gs: there is no such bucket") from error


def _unreachable() -> StoreUnavailable:
    return StoreUnavailable("gs: the object store cannot be reached, or does not answer in time")


def _of_status(status: int) -> EnlightError:
    if status == 404:
        return NoSuchObject("there is no object under this key")
    if status in TRANSIENT_STATUSES:
        return StoreUnavailable(f"gs: the object store answers {status}")
    return StoreDenied(f"gs: the object store refuses with {status}")
