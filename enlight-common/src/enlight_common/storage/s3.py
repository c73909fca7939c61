"""Objects in a bucket at Amazon S3 or at any service that speaks its protocol."""

from __future__ import annotations

import base64
import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
import boto3.exceptions
import boto3.s3.transfer
import botocore.config
import botocore.exceptions
import botocore.parsers
import urllib3.exceptions

from enlight_common.errors import (
    EnlightError,
    NoSuchObject,
    SigningUnavailable,
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

_DEFAULT_REGION = "us-east-1"  # what services other than Amazon's expect when nobody says one
_CHUNK = 256 * 1024
_PAGE = 1000  # what one answer holds at most
_TYPE = "application/octet-stream"


class S3Store:
    """An ObjectStore in `bucket`, every key behind `prefix` ("" or "a/b/").

    Credentials, region and endpoint (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL) are those that boto3 finds. At
    an endpoint that is not Amazon's the bucket stands in the path and not in the host's name.
    """

    def __init__(self, bucket: str, prefix: str = "", *, limits: StorageLimits) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._limits = limits
        with _as_store_errors():
            # Our own attempts are around single requests. A large upload's parts are sent by the library's
            # threads, out of their reach, so there the library tries again.
            self._client = _client(bucket, limits, attempts=1)
            self._uploads = _client(bucket, limits, attempts=limits.attempts)
            # AWS_REQUEST_CHECKSUM_CALCULATION=when_required is for servers that know none.
            self._checksums = self._client.meta.config.request_checksum_calculation == "when_supported"

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        names = self._names(key)
        body = Slice(source, check_source(source, size), size)
        if size >= self._limits.parallel_from_bytes:
            config = boto3.s3.transfer.TransferConfig(
                multipart_threshold=self._limits.parallel_from_bytes,
                multipart_chunksize=self._limits.part_bytes,
                max_concurrency=self._limits.parallel,
                preferred_transfer_client="classic",
            )
            # By itself it would send a checksum of the parts' checksums, which no reader can compare.
            extra = {"ContentType": _TYPE}
            if self._checksums:
                extra |= {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
            with _as_store_errors():
                self._uploads.upload_fileobj(body, **names, ExtraArgs=extra, Config=config)
            return

        def send() -> None:
            body.seek(0)
            self._client.put_object(**names, Body=body, ContentLength=size, ContentType=_TYPE)

        self._retrying(send)

    def get(self, key: str, target: BinaryIO, *, size: int | None = None) -> int:
        names = self._names(key)
        describe = functools.partial(self._describe, names)
        return download(target, describe, self._fetcher(names), self._limits, size=size)

    def read(self, key: str, max_bytes: int) -> bytes:
        names = self._names(key)
        return read(functools.partial(self._describe, names), self._fetcher(names), self._limits, max_bytes)

    def stat(self, key: str) -> ObjectInfo | None:
        names = self._names(key)
        try:
            with _as_store_errors():
                head = self._retrying(lambda: self._client.head_object(**names))
                return ObjectInfo(key, head["ContentLength"], head["LastModified"].timestamp())
        except NoSuchObject:
            return None

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        check_prefix(after, "after")
        return self._list(prefix, after)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        options: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": self._prefix + prefix,
            "MaxKeys": _PAGE,
        }
        if after:
            options["StartAfter"] = self._prefix + after
        while True:
            with _as_store_errors():
                page = self._retrying(functools.partial(self._client.list_objects_v2, **options))
                objects = [
                    ObjectInfo(
                        found["Key"].removeprefix(self._prefix),
                        found["Size"],
                        found["LastModified"].timestamp(),
                    )
                    for found in page.get("Contents", ())
                ]
                options["ContinuationToken"] = page.get("NextContinuationToken")
            yield from objects
            if not page.get("IsTruncated"):
                return

    def delete(self, key: str) -> None:
        names = self._names(key)
        with contextlib.suppress(NoSuchObject):
            self._retrying(lambda: self._client.delete_object(**names))

    def signed_url(self, key: str, method: Method, expires_s: int) -> str:
        names = self._names(key)
        operation = "get_object" if check_method(method) == "GET" else "put_object"
        check_expiry(expires_s)
        try:
            with _as_store_errors():
                return str(self._client.generate_presigned_url(operation, Params=names, ExpiresIn=expires_s))
        except StoreDenied as error:
            raise SigningUnavailable("signing needs an access key") from error

    def _names(self, key: str) -> dict[str, str]:
        name = name_behind(self._prefix, key)
        return {"Bucket": self._bucket, "Key": name}

    def _retrying(self, request: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            with _as_store_errors():
                return request()

        return retrying(self._limits, attempt)

    def _describe(self, names: dict[str, str]) -> Remote:
        with _as_store_errors():
            head = self._retrying(lambda: self._client.head_object(**names, ChecksumMode="ENABLED"))
            size, version = head["ContentLength"], head["ETag"]
        # Of an object that came in parts it may be a checksum of checksums, and not every server says so.
        whole = head.get("ChecksumType") == "FULL_OBJECT" if "ChecksumType" in head else "-" not in version
        if "ChecksumCRC32" not in head or not whole:
            return Remote(size, version)
        try:
            expected = base64.b64decode(head["ChecksumCRC32"], validate=True)
        except ValueError:
            return Remote(size, version)
        return Remote(size, version, _Crc32, expected)

    def _fetcher(self, names: dict[str, str]) -> Callable[[Remote, Sink], None]:
        def fetch(remote: Remote, sink: Sink) -> None:
            with _as_store_errors():
                try:
                    answer = self._client.get_object(
                        **names, IfMatch=remote.version, Range=f"bytes={sink.done}-{sink.end - 1}"
                    )
                except botocore.exceptions.ClientError as error:
                    if _status_of(error) in _CHANGED:
                        raise Changed from error
                    raise
                if answer["ETag"] != remote.version:
                    raise Changed
                with contextlib.closing(answer["Body"]) as body:
                    for chunk in body.iter_chunks(_CHUNK):
                        sink.write(chunk)

        return fetch


class _Crc32:
    """zlib's CRC-32 in the shape of a hashlib digest, big-endian as S3 writes it."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, chunk: bytes) -> None:
        self._value = zlib.crc32(chunk, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _client(bucket: str, limits: StorageLimits, *, attempts: int) -> Any:
    session = boto3.session.Session()
    config = botocore.config.Config(
        connect_timeout=limits.connect_s,
        read_timeout=limits.read_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=max(10, 2 * limits.parallel),
        response_checksum_validation="when_required",  # the whole object's is compared at the end
        signature_version="s3v4",  # URLs would be signed the old way in some regions
    )
    region = session.region_name or _DEFAULT_REGION
    # What endpoint it finds, in the environment or a profile, only a client can tell.
    endpoint = session.client("s3", region_name=region, config=config).meta.endpoint_url
    if not (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")):
        style = "path"
    elif "." in bucket:
        style = "auto"  # no certificate is good for such a host name
    else:
        style = "virtual"  # else URLs are signed for the global host, which redirects to the region's
    styled = config.merge(botocore.config.Config(s3={"addressing_style": style}))
    return session.client("s3", region_name=region, config=styled)


# Not there any more, another one, or shorter than the range.
_CHANGED = (404, 412, 416)
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.NoAuthTokenError,
    botocore.exceptions.TokenRetrievalError,
)


@contextlib.contextmanager
def _as_store_errors() -> Iterator[None]:
    """The one place where what boto3 and botocore raise becomes an error of ours."""
    try:
        yield
    except (EnlightError, Changed):
        raise
    except botocore.exceptions.ClientError as error:
        raise _of_answer(error) from error
    except boto3.exceptions.S3UploadFailedError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, botocore.exceptions.ClientError):
            raise _of_answer(cause) from error
        raise StoreUnavailable("s3: the upload failed") from error
    except _NO_CREDENTIALS as error:
        raise StoreDenied("s3: there are no valid credentials") from error
    except botocore.exceptions.HTTPClientError as error:
        # It also wraps what reading our own body raised.
        own = error.kwargs.get("error")
        if isinstance(own, EnlightError):
            raise own from error
        raise _unreachable() from error
    except (
        botocore.exceptions.ConnectionError,
        botocore.exceptions.IncompleteReadError,
        botocore.exceptions.FlexibleChecksumError,
        botocore.parsers.ResponseParserError,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise _unreachable() from error
    except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:
        raise StoreDenied("s3: the request could not be made with these settings") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreUnavailable("s3: the object store's answer is not the expected one") from error


def _unreachable() -> StoreUnavailable:
    return StoreUnavailable("s3: the object store cannot be reached, or does not answer in time")


def _of_answer(error: botocore.exceptions.ClientError) -> EnlightError:
    status = _status_of(error)
    code = error.response.get("Error", {}).get("Code", "")
    if status == 404 and code != "NoSuchBucket":
        return NoSuchObject("there is no object under this key")
    if status in TRANSIENT_STATUSES or code in ("RequestTimeout", "SlowDown", "InternalError"):
        return StoreUnavailable(f"s3: the object store answers {status}")
    return StoreDenied(f"s3: the object store refuses with {status}")


def _status_of(error: botocore.exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
