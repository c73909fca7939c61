"""Whether a data store answers. Standard library only, so that it starts quickly.

probe.py redis HOST PORT      exit 0 when it answers within five seconds, a password or none
probe.py mongodb HOST PORT    exit 0 when it answers `hello`
"""

from __future__ import annotations

import socket
import struct
import sys

TIMEOUT_S = 5.0
_OP_MSG = 2013
#: {"hello": 1, "$db": "admin"} in BSON.
_HELLO = b"\x10hello\x00\x01\x00\x00\x00\x02$db\x00\x06\x00\x00\x00admin\x00"


def asks_redis(connection: socket.socket) -> bool:
    """One that still reads its file says LOADING, one that wants a password NOAUTH."""
    connection.sendall(b"PING\r\n")
    return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))


def asks_mongodb(connection: socket.socket) -> bool:
    document = struct.pack("<i", len(_HELLO) + 5) + _HELLO + b"\x00"
    body = struct.pack("<iB", 0, 0) + document  # no flags; a section of one document
    connection.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, _OP_MSG) + body)
    return b"ok\x00" in connection.recv(4096)


def main(arguments: list[str]) -> int:
    asks = {"redis": asks_redis, "mongodb": asks_mongodb}
    if len(arguments) != 3 or arguments[0] not in asks:
        print(__doc__, file=sys.stderr)
        return 2
    kind, host, port = arguments
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
            return 0 if asks[kind](connection) else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
