"""Two questions that shell scripts cannot ask well. Standard library only, so that it starts quickly.

probe.py answers URL          exit 0 when it answers 2xx within five seconds
probe.py free HOST PORT…      prints the ports that cannot be bound, exit 1 when there are any
"""

from __future__ import annotations

import http.client
import socket
import sys
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


def answers(url: str) -> bool:
    """Whether a GET of the address answers 2xx; any failure on the way is a no."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path)
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen there now; connections of an earlier one that wind down do not count."""
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
            server.listen(1)
        except OSError:
            return False
    return True


def main(arguments: list[str]) -> int:
    match arguments:
        case ["answers", url]:
            return 0 if answers(url) else 1
        case ["free", host, *ports]:
            taken = [port for port in ports if not can_bind(host, int(port))]
            print("\n".join(taken))
            return 1 if taken else 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
