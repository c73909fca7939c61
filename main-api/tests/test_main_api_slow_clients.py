"""Clients that send or take slowly, and one tenant's many, leave room for the others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from background_parts import picture
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer
from waiting import until

THREADS = 16  # the fewest that main-api takes
#: For what should wait for no slow client, on a crowded machine.
SOON_S = 20
#: More than the buffers of a connection take in.
LARGE = 30_000_000
PICTURE = [("file", ("a.png", picture(), "image/png"))]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[MainApi]:
    """A main-api of few threads."""
    folder = tmp_path_factory.mktemp("slow")
    with MongoStandIn(folder) as mongo, MainApi(folder, mongo, redis, THREADS=str(THREADS)) as server:
        yield server


@contextmanager
def clients(main_api: MainApi, request: bytes, count: int = 2 * THREADS) -> Iterator[None]:
    """So many that send `request`, and neither send nor read anything after it."""
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", main_api.port))
            client.sendall(request)
        yield


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def of(api: Api) -> str:
    return f"Authorization: Bearer {api.key}"


def test_slow_uploads_of_one_tenant_keep_no_other_from_submitting_and_nobody_from_canceling(
    small: MainApi,
) -> None:
    slow, other = small.as_tenant("slow-1"), small.as_tenant("slow-2")
    waiting = slow.generation()
    form = head(
        "POST",
        "/v1/uploads",
        of(slow),
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Length: 500",
    )
    body = head("POST", "/v1/generations", of(slow), "Content-Type: application/json", "Content-Length: 500")
    for request in (form, body):
        with clients(small, request + b"-"):
            assert httpx.get(f"{small.url}/healthz", timeout=SOON_S).status_code == 200
            assert slow.get("/v1/jobs").status_code == 200
            assert slow.post(f"/v1/jobs/{waiting}/cancel").status_code == 200
            until(lambda: other.post("/v1/generations", json={"prompt": "x"}).status_code == 202)
            until(lambda: other.post("/v1/uploads", files=PICTURE).status_code == 201)


def test_event_streams_of_one_tenant_leave_places_to_the_others(small: MainApi) -> None:
    greedy, other = small.as_tenant("slow-3"), small.as_tenant("slow-4")
    theirs, ours = greedy.generation(), other.generation()
    with clients(small, head("GET", f"/v1/jobs/{theirs}/events", of(greedy))):
        until(lambda: status_of(greedy, theirs) == 503)
        assert status_of(other, ours) == 200


def status_of(api: Api, job_id: str) -> int:
    """Of its stream of events, which is left at once."""
    with api.stream("GET", f"/v1/jobs/{job_id}/events") as events:
        return events.status_code


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_objects_that_are_sent_or_taken_slowly_do_not_hold_the_threads(small: MainApi, method: str) -> None:
    tenant = small.as_tenant("slow-5")
    if method == "GET":
        service = small.service()
        service.pictures.put("pictures/slow-5/large/0", b"\0" * LARGE)
        url = urlsplit(service.pictures.url("pictures/slow-5/large/0"))
        request = head("GET", f"{url.path}?{url.query}")
        service.database.close()
    else:
        url = urlsplit(tenant.post("/v1/uploads", json={"size": 500}).json()["uploads"][0]["put_url"])
        request = head("PUT", f"{url.path}?{url.query}", "Content-Length: 500") + b"-"
    with clients(small, request):
        assert httpx.get(f"{small.url}/healthz").status_code == 200
        announced = tenant.post("/v1/uploads", json={"size": len(picture())}).json()["uploads"][0]
        until(lambda: httpx.put(announced["put_url"], content=picture()).status_code == 204)
        made = tenant.post("/v1/photo-sets", json={"photos": [announced["source"]]}).json()
        until(lambda: httpx.get(made["photos"][0]["url"]).content == picture())
