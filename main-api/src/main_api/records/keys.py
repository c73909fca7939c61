"""The collections `keys` and `node_keys`: who may call. Only hashes are stored.

A key reads `enl_<id>_<secret>` (a node's `enn_…`): the id finds the record, and the whole key is compared
with its SHA-256 in constant time, so that the same secret under another kind or id opens nothing. Nothing
slower is needed for 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from main_api.clock import now_ms
from main_api.ids import new_id
from main_api.records.database import Database, Document

Scope = Literal["train", "generate", "read", "admin"]

_PREFIXES = {"keys": "enl", "node_keys": "enn"}
_SECRET_BYTES = 32
_KEY = re.compile(r"(enl|enn)_([0-9a-z]{26})_([A-Za-z0-9_-]{43})")
#: Compared with where there is no such key, so that this takes as long.
_NOBODY = {"digest": "0" * 64}


@dataclass(frozen=True)
class Presented:
    """A key as it was sent, taken apart."""

    prefix: str
    id: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> Presented | None:
        match = _KEY.fullmatch(text)
        return cls(*match.groups()) if match else None

    @property
    def text(self) -> str:
        return f"{self.prefix}_{self.id}_{self.secret}"

    def opens(self, document: Document | None, now: int) -> bool:
        """Whether it is the key of `document`, neither revoked nor expired."""
        known = document or _NOBODY
        genuine = hmac.compare_digest(_digest(self.text), str(known["digest"]))
        if not genuine or document is None or document["revoked_at"] is not None:
            return False
        return document["expires_at"] is None or document["expires_at"] > now


class Keys:
    """One of the two collections."""

    def __init__(self, database: Database, collection: Literal["keys", "node_keys"]) -> None:
        self._records = database.records(collection)
        self.prefix = _PREFIXES[collection]

    def create(
        self,
        *,
        name: str = "",
        tenant: str | None = None,
        scopes: Sequence[Scope] = (),
        expires_at: int | None = None,
    ) -> tuple[Document, str]:
        """The record, and the key itself, which is nowhere else from then on."""
        made = Presented(self.prefix, new_id(), secrets.token_urlsafe(_SECRET_BYTES))
        document: Document = {
            "_id": made.id,
            "tenant": tenant,
            "name": name,
            "scopes": list(scopes),
            "digest": _digest(made.text),
            "created_at": now_ms(),
            "expires_at": expires_at,
            "revoked_at": None,
        }
        self._records.insert(document)
        return document, made.text

    def get(self, key_id: str) -> Document | None:
        return self._records.get(key_id)

    def list(self, tenant: str | None = None) -> list[Document]:
        """Newest first."""
        return self._records.find({"tenant": tenant} if tenant is not None else {}, order=(("_id", -1),))

    def revoke(self, key_id: str, *, tenant: str | None = None) -> Document | None:
        """The record, or None where there is no such key (of the tenant) that is valid."""
        query: Document = {"_id": key_id, "revoked_at": None}
        if tenant is not None:
            query["tenant"] = tenant
        return self._records.change(query, {"$set": {"revoked_at": now_ms()}})


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
