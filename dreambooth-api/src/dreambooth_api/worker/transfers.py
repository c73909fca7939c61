"""Photos from signed URLs, and pictures to them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from enlight_common.errors import EnlightError, NoSuchObject, PayloadTooLarge
from enlight_common.schemas.claims import PictureGrant
from enlight_common.storage.attempts import retrying
from enlight_common.storage.http import Client, refusal
from enlight_common.storage.interface import StorageLimits
from enlight_common.storage.slices import Slice

_MAX_PHOTO_BYTES = 20_000_000  # what `enlight_common.images` takes
_MAX_PHOTOS_BYTES = 400_000_000  # a job's; an instance takes far fewer at once
_CHUNK = 256 * 1024


class Transfers:
    """Each is tried again a few times, as a signed URL may be used more than once."""

    def __init__(self, limits: StorageLimits | None = None) -> None:
        self._limits = limits or StorageLimits()
        self._http = Client(self._limits)

    def photos(self, urls: Sequence[str]) -> list[str]:
        """The files behind the URLs, in base64. Raises StoreUnavailable, StoreDenied (an expired URL),
        NoSuchObject (a deleted photo), PayloadTooLarge.
        """
        found, total = [], 0
        for url in urls:
            data = self._fetch(url)
            total += len(data)
            if total > _MAX_PHOTOS_BYTES:
                raise PayloadTooLarge(f"a job's photos must have at most {_MAX_PHOTOS_BYTES} bytes in all")
            found.append(base64.b64encode(data).decode("ascii"))
        return found

    def _fetch(self, url: str) -> bytes:
        def attempt() -> bytes:
            with self._http.request("GET", url, {}) as answer:
                if answer.status != 200:
                    raise refusal(answer.status)
                data = bytearray()
                while chunk := answer.read(_CHUNK):
                    data += chunk
                    if len(data) > _MAX_PHOTO_BYTES:
                        raise PayloadTooLarge(f"a photo must have at most {_MAX_PHOTO_BYTES} bytes")
                return bytes(data)

        return retrying(self._limits, attempt)

    def put(self, grant: PictureGrant, data: bytes) -> None:
        """Raises StoreUnavailable, StoreDenied, StorageFull, PayloadTooLarge, Conflict."""
        body = Slice(io.BytesIO(data), 0, len(data))
        headers = {**grant.headers, "Content-Length": str(len(data))}

        def attempt() -> None:
            body.seek(0)
            with self._http.request("PUT", grant.put_url, headers, body) as answer:
                if answer.status not in (200, 201, 204):
                    raise refusal(answer.status)

        retrying(self._limits, attempt)


def is_final(error: EnlightError) -> bool:
    """Whether no other worker would get the photos either."""
    return isinstance(error, NoSuchObject | PayloadTooLarge)
