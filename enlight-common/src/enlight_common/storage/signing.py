"""URLs that carry their own permission: one method on one object until a moment in time."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import urlencode, urlsplit

from enlight_common.errors import Forbidden
from enlight_common.storage.interface import Method, check_expiry, check_key, check_method

MIN_SECRET_BYTES = 32
BYTES_PATH = "bytes"  # below the base URL, where enlight_common.web.objects serves what is signed here

_REFUSED = "the signed URL is not valid, or no longer"


class UrlSigner:
    """Signs with HMAC-SHA256 over method, key and expiry.

    `base_url` is where the objects' routes can be reached by those who get the URLs. It is not signed: a
    proxy may serve the same routes under another name.
    """

    def __init__(self, secret: bytes, base_url: str) -> None:
        """Raises ValueError for a secret of fewer than 32 bytes, or a base that is no http(s) URL."""
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret must have at least {MIN_SECRET_BYTES} bytes")
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("the base must be an http or https URL without a query")
        self._secret = secret
        self.base_url = base_url.rstrip("/")

    def sign(self, method: Method, key: str, expires_s: int, *, now: float | None = None) -> str:
        """The URL for `method` on `key`, valid for `expires_s` seconds from `now` (since the epoch)."""
        check_method(method)
        check_key(key)
        expires = int(time.time() if now is None else now) + check_expiry(expires_s)
        query = urlencode({"expires": expires, "signature": self._signature(method, key, expires)})
        return f"{self.base_url}/{BYTES_PATH}/{key}?{query}"

    def verify(
        self, method: str, key: str, expires: str, signature: str, *, now: float | None = None
    ) -> None:
        """Raise Forbidden unless `sign` gave these for this method and key, and `now` is before the expiry.

        `expires` and `signature` are as they stand in the URL's query. The answer is the same whatever is
        wrong, and so is the time it takes.
        """
        moment = int(expires) if expires.isascii() and expires.isdigit() and len(expires) <= 15 else 0
        expected = self._signature(method, key, moment)
        genuine = hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
        if not genuine or moment <= (time.time() if now is None else now):
            raise Forbidden(_REFUSED)

    def _signature(self, method: str, key: str, expires: int) -> str:
        # No part can hold a line break: the key's characters are checked before it is signed.
        message = f"enlight object url 1\n{method}\n{key}\n{expires}"
        return hmac.new(self._secret, message.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
