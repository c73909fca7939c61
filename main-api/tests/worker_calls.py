"""What a worker beside a GPU sends, for tests that play one."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
from main_api_servers import Api

PICTURE = b"bytes of a picture"


def put_picture(node: Api, claim: dict[str, Any], index: int = 0, data: bytes = PICTURE) -> dict[str, Any]:
    """Store a picture; how the completion names it."""
    digest = hashlib.sha256(data).hexdigest()
    about = {"index": index, "format": "png", "size": len(data), "sha256": digest}
    grant = post(node, claim, "pictures", **about)
    assert grant.status_code == 200, grant.text
    assert httpx.put(grant.json()["put_url"], content=data).status_code == 204
    return {**about, "key": grant.json()["key"], "width": 64, "height": 64, "seed": 7}


def succeed(node: Api, claim: dict[str, Any], pictures: list[dict[str, Any]]) -> httpx.Response:
    output = {"pictures": pictures, "settings": {"steps": 20}}
    metrics = {"gpu_seconds": 1.5}
    return post(node, claim, "completion", status="succeeded", output=output, metrics=metrics)


def post(node: Api, claim: dict[str, Any], what: str, **fields: Any) -> httpx.Response:
    """Report under the claim's fencing number."""
    body = {"fencing": claim["fencing"], **fields}
    return node.post(f"/internal/v1/jobs/{claim['job_id']}/{what}", json=body)
