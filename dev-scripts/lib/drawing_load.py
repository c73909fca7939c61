"""Draws through nginx, again and again and by several clients at once, and counts what failed.

drawing_load.py URL CLIENTS STOP_FILE    until the file is there; prints "<drawn> <failed>" and each failure

Half of the clients keep their connection open from one request to the next, as main-api does; half do not.
Standard library only.
"""

from __future__ import annotations

import collections
import http.client
import json
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 600.0
BODY = json.dumps({"prompt": "a red ball", "num_image": 1, "num_inference_steps": 1, "seed": 1})


def draw_until(url: str, stop: Path, keeps: bool, outcomes: collections.Counter[str]) -> None:
    """One client. An outcome is a status, or the name of what went wrong."""
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", **({} if keeps else {"Connection": "close"})}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    while not stop.exists():
        try:
            connection.request("POST", "/inference", BODY, headers)
            answer = connection.getresponse()
            answer.read()
            outcomes[str(answer.status)] += 1
        except (OSError, http.client.HTTPException) as error:
            outcomes[type(error).__name__] += 1
            connection.close()
    connection.close()


def main(url: str, clients: str, stop: str) -> int:
    """0 when nothing failed."""
    outcomes: collections.Counter[str] = collections.Counter()
    threads = [
        threading.Thread(target=draw_until, args=(url, Path(stop), number % 2 == 0, outcomes))
        for number in range(int(clients))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = {kind: count for kind, count in outcomes.items() if kind != "200"}
    print(outcomes["200"], sum(failed.values()), *(f"{kind}={count}" for kind, count in failed.items()))
    return 1 if failed or not outcomes["200"] else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
