"""The one place that talks to MongoDB: connection, indexes, and the driver's errors as ours.

Everything here works on a sharded cluster and on the SQLite stand-in alike: ids are known beforehand, a
change is a compare-and-set on one document, and nothing is upserted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bson.errors import InvalidDocument
from enlight_common.errors import InvalidRequest, Unavailable
from pymongo import MongoClient, ReturnDocument
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

Document = dict[str, Any]
Order = Sequence[tuple[str, int]]

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_DUPLICATE = 11000
_SELECT_MS = 2_000
_SOCKET_MS = 10_000
_WRITE_MS = 5_000
_RETRY_S = 3.0

#: collection -> the indexes that its queries need. Ids sort by time, so lists are by `_id`.
INDEXES: Mapping[str, Sequence[Order]] = {
    "jobs": (
        # A tenant's list, and its quotas.
        (("tenant", 1), ("_id", -1)),
        (("tenant", 1), ("status", 1), ("kind", 1), ("created_at", -1)),
        # The next job of a kind, and the place in the queue. After those above: of indexes that seem equal,
        # the stand-in takes the newest.
        (("status", 1), ("kind", 1), ("created_at", 1)),
        (("status", 1), ("lease_until", 1)),
        (("parent", 1), ("step", 1)),
        # What a webhook is still owed for.
        (("webhook_due", 1),),
    ),
    "deliveries": (
        (("job_id", 1), ("created_at", 1)),
        (("status", 1), ("due", 1)),
        (("created_at", 1),),
    ),
    "keys": ((("tenant", 1), ("_id", -1)),),
    "node_keys": (),
    "tenants": (),
    "reservations": ((("created_at", 1),),),
    "photo_sets": ((("tenant", 1), ("_id", -1)),),
    "models": ((("tenant", 1), ("_id", 1)), (("state", 1), ("updated_at", 1))),
    "objects": (
        (("tenant", 1), ("created_at", 1)),
        (("job_id", 1),),
        (("state", 1), ("created_at", 1)),
    ),
    "audit": ((("tenant", 1), ("_id", -1)),),
}


class DuplicateId(Exception):
    """There is a document with this id already."""


class Records:
    """One collection. Its methods raise Unavailable when the database cannot be reached in time, and
    InvalidRequest for a document that no database takes: too large, or a number that is.
    """

    def __init__(self, collection: MongoCollection[Document]) -> None:
        self._collection = collection

    def insert(self, document: Mapping[str, Any]) -> None:
        """Raises DuplicateId."""
        with _errors():
            self._collection.insert_one({"schema_version": SCHEMA_VERSION, **document})

    def insert_many(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Each in turn; those that are there already are left as they are."""
        if len(documents) > 1:
            try:
                with _errors():
                    self._collection.insert_many(
                        [{"schema_version": SCHEMA_VERSION, **document} for document in documents]
                    )
                return
            except DuplicateId:
                pass  # some may be there now; one by one tells which
        for document in documents:
            try:
                self.insert(document)
            except DuplicateId:
                continue

    def get(self, key: object) -> Document | None:
        with _errors():
            return self._collection.find_one({"_id": key})

    def find_one(self, query: Mapping[str, Any]) -> Document | None:
        with _errors():
            return self._collection.find_one(query)

    def find(
        self,
        query: Mapping[str, Any],
        *,
        order: Order = (),
        limit: int = 0,
        fields: Sequence[str] | None = None,
    ) -> list[Document]:
        """All of them, or the first `limit`."""
        with _errors():
            cursor = self._collection.find(query, dict.fromkeys(fields, 1) if fields else None)
            if order:
                cursor = cursor.sort(list(order))
            return list(cursor.limit(limit) if limit else cursor)

    def count(self, query: Mapping[str, Any], *, limit: int = 0) -> int:
        """How many there are, or `limit` if there are more."""
        bounded = [{"$limit": limit}] if limit else []
        # Not count_documents: the stand-in reads every document for what that sends.
        with _errors():
            found = list(self._collection.aggregate([{"$match": dict(query)}, *bounded, {"$count": "count"}]))
        return int(found[0]["count"]) if found else 0

    def sum(self, query: Mapping[str, Any], field: str, *, by: str | None = None) -> dict[Any, int]:
        """The sum of `field` (or of 1 where it is "") for each value of `by`, or under None."""
        group = {"_id": f"${by}" if by else None, "sum": {"$sum": f"${field}" if field else 1}}
        with _errors():
            return {
                row["_id"]: int(row["sum"])
                for row in self._collection.aggregate([{"$match": dict(query)}, {"$group": group}])
            }

    def change(self, query: Mapping[str, Any], update: Mapping[str, Any]) -> Document | None:
        """Compare-and-set: change the one document that `query` finds, and return it as it is then.

        `query` names its `_id`. None where no document is as the query says.
        """
        with _errors():
            changed: Document | None = self._collection.find_one_and_update(
                query, update, return_document=ReturnDocument.AFTER
            )
            return changed

    def delete(self, query: Mapping[str, Any]) -> bool:
        """Whether there was one to delete."""
        with _errors():
            return self._collection.delete_one(query).deleted_count > 0


class Database:
    """The service's database. Connecting happens at first use."""

    def __init__(self, url: str, name: str) -> None:
        self._client: MongoClient[Document] = MongoClient(
            url,
            appname="enlight-main-api",
            serverSelectionTimeoutMS=_SELECT_MS,
            connectTimeoutMS=_SELECT_MS,
            socketTimeoutMS=_SOCKET_MS,
            # A burst of requests finds connections open, instead of opening as many at once.
            minPoolSize=4,
        )
        self._database = self._client.get_database(
            name,
            # Acknowledged means that it survives the loss of a member; readers see only such records.
            write_concern=WriteConcern("majority", wtimeout=_WRITE_MS),
            read_concern=ReadConcern("majority"),
        )

    def records(self, collection: str) -> Records:
        return Records(self._database[collection])

    def is_reachable(self) -> bool:
        try:
            self._client.admin.command("ping")
        except PyMongoError:
            return False
        return True

    def prepare(self) -> None:
        """Make indexes and, behind a mongos, shard the collections by the hash of their ids.

        Every access that must be quick or exclusive names the `_id`, so it goes to one shard; and only a
        sharding by `_id` keeps ids unique in the whole cluster. Raises Unavailable.
        """
        with _errors():
            hello = self._client.admin.command("hello")
            sharded = hello.get("msg") == "isdbgrid"
            if sharded:
                self._client.admin.command("enableSharding", self._database.name)
            for collection, indexes in INDEXES.items():
                if sharded:
                    self._client.admin.command(
                        "shardCollection", f"{self._database.name}.{collection}", key={"_id": "hashed"}
                    )
                # The stand-in uses none of several fields, and takes none with `_id` in it.
                alone = not sharded and "setName" not in hello
                for index in _single(indexes) if alone else indexes:
                    self._database[collection].create_index(list(index))

    def close(self) -> None:
        self._client.close()


def _single(indexes: Sequence[Order]) -> list[Order]:
    """The first field of each index, once."""
    return [[field] for field in dict.fromkeys(index[0] for index in indexes)]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except DuplicateKeyError as error:
        raise DuplicateId from error
    except OperationFailure as error:
        # The stand-in's duplicate has no code. The unordered bulk of a real server has its own error.
        if error.code == _DUPLICATE or "UNIQUE constraint failed" in str(error) or _all_duplicates(error):
            raise DuplicateId from error
        log.error("the database refused an operation", exc_info=error)
        raise Unavailable("the database refused the operation", retry_after=_RETRY_S) from error
    except (InvalidDocument, OverflowError) as error:
        log.warning("a document that cannot be stored: %s", type(error).__name__)
        raise InvalidRequest("the request makes a record that is too large to be stored") from error
    except PyMongoError as error:
        log.warning("the database cannot be reached: %s", type(error).__name__)
        raise Unavailable("the database cannot be reached", retry_after=_RETRY_S) from error


def _all_duplicates(error: OperationFailure) -> bool:
    errors = (error.details or {}).get("writeErrors") or []
    return bool(errors) and all(one.get("code") == _DUPLICATE for one in errors)
