"""MongoDB's wire protocol, with SCRAM, in front of mongodb_servers: for pymongo and mongosh."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socket
import struct
import threading
from typing import Any

import bson
from bson import json_util
from mongodb_servers import Refused, Servers

_REPLY, _QUERY = 1, 2004
_ROUNDS = 4096
_LIMITS = {
    "maxWireVersion": 25,
    "minWireVersion": 0,
    "maxBsonObjectSize": 1 << 24,
    "saslSupportedMechs": ["SCRAM-SHA-256"],
}


class Wire:
    """Listens as one server of the cluster. *names*: texts in what is sent, and the servers' own for them."""

    def __init__(
        self, servers: Servers, server: str, address: tuple[str, int], names: dict[str, str] | None = None
    ) -> None:
        self._servers, self._server = servers, server
        self._names = {} if names is None else names
        self._listener = socket.create_server(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else the thread in accept() keeps the port
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        session = _Session(self._servers, self._server)
        with connection, connection.makefile("rb") as stream:
            while len(header := stream.read(16)) == 16:
                length, request, _, kind = struct.unpack("<iiii", header)
                body = stream.read(length - 16)
                if kind == _QUERY:  # the first hello: flags, the name of a collection, two numbers
                    start = body.index(b"\0", 4) + 9
                    reply = struct.pack("<iqii", 8, 0, 0, 1) + self._answer(session, body[start:])
                    kind = _REPLY
                else:  # flags and the kind of the one section
                    reply = struct.pack("<iB", 0, 0) + self._answer(session, body[5:])
                connection.sendall(struct.pack("<iiii", 16 + len(reply), 0, request, kind) + reply)

    def _answer(self, session: _Session, data: bytes) -> bytes:
        (length,) = struct.unpack_from("<i", data)
        command = bson.decode(data[:length])
        try:
            answer = session.answer(_renamed(command, self._names))
        except Refused as refused:
            answer = {"ok": 0.0, "code": refused.code, "errmsg": str(refused)}
        back = {there: here for here, there in self._names.items()}
        return bson.encode(_renamed(answer, back))


class _Session:
    """One connection: who it is, once it has proved it."""

    def __init__(self, servers: Servers, server: str) -> None:
        self._servers, self._server = servers, server
        self._user: str | None = None
        self._claimed = ""
        self._first = ""

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        if name in {"ismaster", "isMaster"} or "helloOk" in command:
            name = "hello"
        if name == "saslStart":
            return self._challenge(command["payload"].decode())
        if name == "saslContinue":
            return self._verify(command["payload"].decode())
        if name == "endSessions":
            return {"ok": 1.0}
        if name == "hello":
            return _LIMITS | self._servers.run(self._server, self._user, False, "admin", {"hello": 1})
        loopback = self._user is None  # every client is on this machine
        asked = json.loads(json_util.dumps(command))
        answer = self._servers.run(self._server, self._user, loopback, command["$db"], asked)
        typed: dict[str, Any] = json_util.loads(json.dumps(answer))
        return typed

    def _challenge(self, payload: str) -> dict[str, Any]:
        bare = payload.removeprefix("n,,")
        fields = dict(part.split("=", 1) for part in bare.split(","))
        self._claimed = fields["n"]
        salt = os.urandom(16)
        self._salt = salt
        challenge = f"r={fields['r']}{os.urandom(9).hex()},s={base64.b64encode(salt).decode()},i={_ROUNDS}"
        self._first = f"{bare},{challenge}"
        return {"conversationId": 1, "done": False, "payload": challenge.encode(), "ok": 1.0}

    def _verify(self, payload: str) -> dict[str, Any]:
        if not payload:
            return {"conversationId": 1, "done": True, "payload": b"", "ok": 1.0}
        without_proof, _, proof = payload.rpartition(",p=")
        password = self._servers.password(self._server, self._claimed)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), self._salt, _ROUNDS)
        client_key = _hmac(salted, b"Client Key")
        message = f"{self._first},{without_proof}".encode()
        signature = _hmac(hashlib.sha256(client_key).digest(), message)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if not hmac.compare_digest(expected, base64.b64decode(proof)):
            raise Refused(18, "Authentication failed.")
        self._user = self._claimed
        answer = base64.b64encode(_hmac(_hmac(salted, b"Server Key"), message)).decode()
        return {"conversationId": 1, "done": True, "payload": f"v={answer}".encode(), "ok": 1.0}


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The same document with every occurrence of a name in its texts replaced."""
    if isinstance(value, dict):
        return {key: _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if isinstance(value, str):
        for here, there in names.items():
            value = value.replace(here, there)
    return value
