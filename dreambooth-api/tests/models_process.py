"""Another process of the same machine, which does what standard input says, a JSON object a line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sys
from pathlib import Path
from typing import Any

from enlight_common.errors import EnlightError
from models_parts import is_right, manifest, result, store_at

folder, max_bytes, locks = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
if not locks:
    # As on the network file systems that grant every lock to everyone.
    fcntl.flock = lambda descriptor, operation: None
store = store_at(folder, max_bytes=max_bytes)
opened: dict[str, tuple[contextlib.ExitStack, Any]] = {}


def do(what: str, model_id: str = "", slot: str = "", size: int = 0, seed: int = 0, version: str = "") -> Any:
    if what == "open":
        with contextlib.ExitStack() as stack:
            artifact = stack.enter_context(store.open(model_id))
            opened[slot] = (stack.pop_all(), artifact)
        return is_right(artifact)
    if what == "check":
        return is_right(opened[slot][1])
    if what == "close":
        if slot in opened:  # it could be opened
            opened.pop(slot)[0].close()
        return True
    if what == "evict":
        return store.cache.evict(store.find(model_id))
    if what == "delete":
        return len(store.delete(model_id))
    if what == "publish":
        made = result(folder / "results" / version, size, seed)
        return store.catalog.publish(made, manifest(model_id, version=version)).version
    return vars(store.cache.counts) | {"evictions": store.cache.space.evictions}


for line in sys.stdin:
    try:
        answer = do(**json.loads(line))
    except EnlightError as error:
        answer = error.type
    print(json.dumps(answer), flush=True)
