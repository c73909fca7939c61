"""Signatures of webhooks, as Replicate and Standard Webhooks (standardwebhooks.com) have them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    """`whsec_` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")


def signed_headers(secret: str, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent `body` and when; `timestamp` in seconds since the epoch.

    The id stays the same when a webhook is sent again, so that a receiver can tell that it had it before.
    """
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{_signature(secret, webhook_id, timestamp, body)}",
    }


def _signature(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    message = f"{webhook_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, message, hashlib.sha256)).decode("ascii")
