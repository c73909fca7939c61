"""What the servers of a sharded cluster answer to mongodb-server's scripts, as far as those go.

No MongoDB can be had where the tests run. This keeps the rules that the scripts' order depends on: a replica
set is made once, its first user from loopback only, nothing works without a primary, a shard is added once,
and so on. It stands for MongoDB in tests of that order and of nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from mongodb_replica_set import Document, ReplicaSet

NOW = "2026-01-01T12:00:00.000Z"


class Refused(Exception):
    """An error of a server: its code and its message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Servers:
    """All servers by name (`shard1-2`): `up` has those that run, `data` what a member has in its volume."""

    def __init__(self) -> None:
        self.up: dict[str, str] = {}  # the server's name -> the release it runs
        self.data: dict[str, ReplicaSet] = {}
        self.slow: dict[str, int] = {}  # how many connections a server still refuses
        self.behind: dict[str, int] = {}  # seconds that a secondary lags
        self.commands: list[tuple[str, str | None, str]] = []  # server, user, what it was asked

    def start(self, server: str, release: str) -> None:
        if server in self.data:
            mine = self.data[server]
            for other in self.members(mine.name):
                if other != server and other in self.up and self.data.get(other) == mine:
                    self.data[server] = self.data[other]
        self.up[server] = release

    def stop(self, server: str) -> None:
        self.up.pop(server, None)

    @staticmethod
    def members(name: str) -> list[str]:
        return [f"{name}-{number}" for number in (1, 2, 3)]

    def primary(self, name: str) -> str | None:
        """Elects one where the last is away and most members are there."""
        there = [member for member in self.members(name) if member in self.up and member in self.data]
        if len(there) < 2:
            return None
        data = self.data[there[0]]
        if data.primary not in there:
            data.primary = there[0]
        return data.primary

    def connect(self, server: str, user: str | None, password: str | None) -> None:
        if server not in self.up:
            raise Refused(0, f"getaddrinfo ENOTFOUND {server}")
        if self.slow.get(server, 0) > 0:
            self.slow[server] -= 1
            raise Refused(0, "connect ECONNREFUSED")
        if user is not None and self.password(server, user) != password:
            raise Refused(18, "Authentication failed.")

    def password(self, server: str, user: str) -> str:
        known = self._data(server).users.get(user) if self._has_data(server) else None
        if known is None:
            raise Refused(18, "Authentication failed.")
        return str(known["pwd"])

    def run(
        self, server: str, user: str | None, loopback: bool, database: str, command: Document
    ) -> Document:
        name = next(iter(command))
        if server not in self.up:
            raise Refused(0, "connection closed")
        self.commands.append((server, user, name))
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            raise Refused(59, f"no such command: '{name}'")
        self._authorize(server, user, loopback, name)
        done: Document = answer(server, copy.deepcopy(command)) or {}
        return copy.deepcopy({**done, "ok": 1})

    def _authorize(self, server: str, user: str | None, loopback: bool, name: str) -> None:
        anybody = {"hello", "buildInfo", "ping"}
        watching = {"connectionStatus", "replSetGetStatus", "getParameter", "listShards"}
        allowed = {
            None: anybody,
            "root": None,
            "backup": anybody | watching | {"find", "balancerStatus", "balancerStart", "balancerStop"},
            "main-api": anybody | {"enableSharding", "shardCollection", "createIndexes"},
        }[user]
        if user == "backup" and name.startswith("balancer"):
            roles = self._data(server).users["backup"]["roles"]
            if not any(role["role"] == "balancer" for role in roles):
                raise Refused(13, f"not authorized on admin to execute command {name}")
        if user is None and loopback and not (self._has_data(server) and self._data(server).users):
            allowed = anybody | {"createUser", "replSetInitiate"}
        if allowed is not None and name not in allowed:
            raise Refused(13, f"Command {name} requires authentication")

    # -- data

    def _has_data(self, server: str) -> bool:
        return server.startswith("router") or server in self.data

    def _data(self, server: str) -> ReplicaSet:
        if not server.startswith("router"):
            return self.data[server]
        primary = self.primary("config")
        if primary is None:
            raise Refused(133, "Could not find host matching read preference for set config")
        return self.data[primary]

    def _writable(self, server: str) -> ReplicaSet:
        data = self._data(server)
        if not server.startswith("router") and self.primary(data.name) != server:
            raise Refused(10107, "not primary")
        return data

    def _cluster(self, server: str) -> ReplicaSet:
        if not server.startswith("router"):
            raise Refused(59, "no such command on a mongod")
        return self._data(server)

    # -- commands: every server's

    def _ping(self, server: str, command: Document) -> None:
        pass

    def _hello(self, server: str, command: Document) -> Document:
        if server.startswith("router"):
            return {"isWritablePrimary": True, "msg": "isdbgrid"}
        if server not in self.data:
            return {"isWritablePrimary": False, "secondary": False, "isreplicaset": True}
        name = self.data[server].name
        first = self.primary(name) == server
        return {"isWritablePrimary": first, "secondary": not first, "setName": name}

    def _buildInfo(self, server: str, command: Document) -> Document:  # noqa: N802
        return {"version": self.up[server]}

    def _connectionStatus(self, server: str, command: Document) -> None:  # noqa: N802
        pass

    def _getParameter(self, server: str, command: Document) -> Document:  # noqa: N802
        return {"featureCompatibilityVersion": {"version": self._data(server).series}}

    # -- of a replica set

    def _replSetInitiate(self, server: str, command: Document) -> None:  # noqa: N802
        wanted = command["replSetInitiate"]
        hosts = [member["host"].split(":")[0] for member in wanted["members"]]
        if any(host in self.data for host in hosts):
            raise Refused(23, "already initialized")
        if any(host not in self.up for host in hosts):
            raise Refused(74, "replSetInitiate quorum check failed")
        if (wanted["_id"] == "config") != wanted.get("configsvr", False):
            raise Refused(93, "configsvr must be set for config servers and for them only")
        made = ReplicaSet(wanted["_id"], server, self.up[server].rpartition(".")[0])
        for host in hosts:
            self.data[host] = made

    def _replSetGetStatus(self, server: str, command: Document) -> Document:  # noqa: N802
        name = self.data[server].name
        port = 27019 if name == "config" else 27018
        members = []
        for member in self.members(name):
            there = member in self.up and member in self.data
            state = "PRIMARY" if self.primary(name) == member else "SECONDARY"
            seconds = 60 - self.behind.get(member, 0)
            applied = NOW if seconds == 60 else f"2026-01-01T11:59:{seconds:02}.000Z"
            members.append(
                {
                    "name": f"{member}:{port}",
                    "stateStr": state if there else "(not reachable/healthy)",
                    "health": int(there),
                    "optimeDate": {"$date": applied},
                }
            )
        return {"members": members}

    def _replSetStepDown(self, server: str, command: Document) -> None:  # noqa: N802
        data = self._writable(server)
        others = [one for one in self.members(data.name) if one in self.up and one != server]
        if not others:
            raise Refused(262, "No electable secondaries caught up")
        data.primary = others[0]

    # -- users

    def _createUser(self, server: str, command: Document) -> None:  # noqa: N802
        users = self._writable(server).users
        if command["createUser"] in users:
            raise Refused(51003, f'User "{command["createUser"]}@admin" already exists')
        users[command["createUser"]] = {"pwd": command["pwd"], "roles": command["roles"]}

    def _updateUser(self, server: str, command: Document) -> None:  # noqa: N802
        users = self._writable(server).users
        users[command["updateUser"]] = {"pwd": command["pwd"], "roles": command["roles"]}

    def _usersInfo(self, server: str, command: Document) -> Document:  # noqa: N802
        wanted = command["usersInfo"]["user"]
        return {"users": [{"user": wanted}] if wanted in self._data(server).users else []}

    def _createRole(self, server: str, command: Document) -> None:  # noqa: N802
        self._writable(server).roles[command["createRole"]] = command["privileges"]

    def _updateRole(self, server: str, command: Document) -> None:  # noqa: N802
        self._writable(server).roles[command["updateRole"]] = command["privileges"]

    def _rolesInfo(self, server: str, command: Document) -> Document:  # noqa: N802
        wanted = command["rolesInfo"]["role"]
        return {"roles": [{"role": wanted}] if wanted in self._data(server).roles else []}

    # -- of a cluster, through a router

    def _listShards(self, server: str, command: Document) -> Document:  # noqa: N802
        return {"shards": list(self._cluster(server).shards.values())}

    def _addShard(self, server: str, command: Document) -> None:  # noqa: N802
        shards, name = self._cluster(server).shards, command["name"]
        if name in shards:
            raise Refused(117, f"a shard named {name} exists")
        if self.primary(name) is None:
            raise Refused(133, f"no primary of {name}")
        shards[name] = {"_id": name, "host": command["addShard"], "tags": []}

    def _enableSharding(self, server: str, command: Document) -> None:  # noqa: N802
        databases = self._cluster(server).databases
        if not self._cluster(server).shards:
            raise Refused(70, "no shards found")
        if command["enableSharding"] not in databases:
            databases.append(command["enableSharding"])

    def _shardCollection(self, server: str, command: Document) -> None:  # noqa: N802
        collections = self._cluster(server).collections
        name, key = command["shardCollection"], command["key"]
        for there in collections:
            if there["_id"] == name:
                if there["key"] != key:
                    raise Refused(23, "sharded already, by another key")
                return
        collections.append({"_id": name, "key": key})

    def _createIndexes(self, server: str, command: Document) -> None:  # noqa: N802
        self._cluster(server)

    def _find(self, server: str, command: Document) -> Document:
        cluster = self._cluster(server)
        found = {"collections": cluster.collections, "tags": cluster.ranges}[command["find"]]
        wanted = command["filter"].items()
        return {"cursor": {"firstBatch": [one for one in found if wanted <= one.items()]}}

    def _addShardToZone(self, server: str, command: Document) -> None:  # noqa: N802
        self._cluster(server).shards[command["addShardToZone"]]["tags"].append(command["zone"])

    def _removeShardFromZone(self, server: str, command: Document) -> None:  # noqa: N802
        cluster, zone = self._cluster(server), command["zone"]
        others = [
            s
            for s in cluster.shards.values()
            if zone in s["tags"] and s["_id"] != command["removeShardFromZone"]
        ]
        if not others and any(one["tag"] == zone for one in cluster.ranges):
            raise Refused(31, "the last shard of a zone that has ranges")
        cluster.shards[command["removeShardFromZone"]]["tags"].remove(zone)

    def _updateZoneKeyRange(self, server: str, command: Document) -> None:  # noqa: N802
        cluster = self._cluster(server)
        namespace, low, high = command["updateZoneKeyRange"], command["min"], command["max"]
        if command["zone"] is None:
            cluster.ranges[:] = [one for one in cluster.ranges if (one["ns"], one["min"]) != (namespace, low)]
            return
        if any(one["ns"] == namespace for one in cluster.ranges):
            raise Refused(178, "the range overlaps another")
        if not any(command["zone"] in shard["tags"] for shard in cluster.shards.values()):
            raise Refused(65, "no shard is in that zone")
        cluster.ranges.append({"ns": namespace, "min": low, "max": high, "tag": command["zone"]})

    def _balancerStatus(self, server: str, command: Document) -> Document:  # noqa: N802
        return {"mode": self._cluster(server).balancer, "inBalancerRound": False}

    def _balancerStop(self, server: str, command: Document) -> None:  # noqa: N802
        self._cluster(server).balancer = "off"

    def _balancerStart(self, server: str, command: Document) -> None:  # noqa: N802
        self._cluster(server).balancer = "full"

    def _setFeatureCompatibilityVersion(self, server: str, command: Document) -> None:  # noqa: N802
        if command.get("confirm") is not True:
            raise Refused(7369100, "confirm must be true")
        for data in self._all_data():
            data.series = command["setFeatureCompatibilityVersion"]

    def _all_data(self) -> Iterator[ReplicaSet]:
        yield from self.data.values()
