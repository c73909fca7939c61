"""What the members of a replica set have in common, in the tests' model of MongoDB."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass
class ReplicaSet:
    """What the members of a set have in common: their data, with the members who have it."""

    name: str
    primary: str
    series: str
    users: dict[str, Document] = field(default_factory=dict)
    roles: dict[str, list[Document]] = field(default_factory=dict)
    #: Of the config servers: the cluster's.
    shards: dict[str, Document] = field(default_factory=dict)
    databases: list[str] = field(default_factory=list)
    collections: list[Document] = field(default_factory=list)
    ranges: list[Document] = field(default_factory=list)
    balancer: str = "full"
    records: list[str] = field(default_factory=list)

    def packed(self) -> bytes:
        return json.dumps(self.__dict__).encode()

    @classmethod
    def unpacked(cls, data: bytes) -> ReplicaSet:
        return cls(**json.loads(data))
