"""The objects' routes over HTTP, on a real gunicorn."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from enlight_common.storage import UrlSigner, open_object_store
from enlight_common.web import create_app
from enlight_common.web.objects import objects_blueprint
from openapi_spec_validator import validate as validate_openapi
from storage_backends import LIMITS, Backend
from storage_issuer import BASE_PATH, MAX_OBJECT_BYTES, NODE_KEY, SECRET, issuer_app

from conftest import wait_until

pytest_plugins = ("storage_servers",)

DATA = bytes(range(256)) * 4096


@pytest.fixture
def base(granted: Backend) -> str:
    return granted.url + BASE_PATH


@pytest.fixture
def signer(base: str) -> UrlSigner:
    return UrlSigner(SECRET, base)


@pytest.fixture
def client() -> httpx.Client:
    return httpx.Client(headers={"Authorization": f"Bearer {NODE_KEY}"}, timeout=30)


@pytest.fixture
def stored(signer: UrlSigner) -> str:
    """A signed URL of an object with DATA."""
    assert httpx.put(signer.sign("PUT", "routes/data", 60), content=DATA).status_code == 204
    return signer.sign("GET", "routes/data", 60)


def test_a_grant_says_url_and_expiry(client: httpx.Client, base: str, stored: str):
    answer = client.post(f"{base}/urls", json={"method": "GET", "key": "routes/data"}).json()
    assert sorted(answer) == ["expires_at", "headers", "url"]
    assert answer["expires_at"].endswith("Z")
    assert httpx.get(answer["url"]).content == DATA


@pytest.mark.parametrize(
    "body",
    [
        {"method": "DELETE", "key": "a"},
        {"method": "GET", "key": "../a"},
        {"method": "GET", "key": "k" * 2000},
        {"method": "GET"},
        {"method": "GET", "key": "a", "more": 1},
    ],
)
def test_a_grant_for_anything_else_is_refused(client: httpx.Client, base: str, body: dict[str, object]):
    assert client.post(f"{base}/urls", json=body).status_code == 422


def test_every_route_but_bytes_asks_for_the_node_key(base: str):
    with httpx.Client(headers={"Authorization": "Bearer wrong"}) as client:
        answers = [
            client.post(f"{base}/urls", json={"method": "GET", "key": "a"}),
            client.get(f"{base}/objects"),
            client.get(f"{base}/stat/a"),
            client.delete(f"{base}/objects/a"),
        ]
    assert [answer.status_code for answer in answers] == [401] * 4


def test_a_page_leads_to_the_next(client: httpx.Client, base: str, signer: UrlSigner):
    for name in ("a", "b", "c"):
        httpx.put(signer.sign("PUT", f"pages/{name}", 60), content=b"x")
    query = {"prefix": "pages/", "limit": "2"}
    first = client.get(f"{base}/objects", params=query).json()
    assert [entry["key"] for entry in first["objects"]] == ["pages/a", "pages/b"]
    assert first["next"] == "pages/b"
    second = client.get(f"{base}/objects", params={**query, "after": first["next"]}).json()
    assert [entry["key"] for entry in second["objects"]] == ["pages/c"]
    assert second["next"] is None
    assert sorted(second["objects"][0]) == ["key", "modified", "size"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=", "prefix=../", "after=../", "prefix=%00"]
)
def test_a_page_that_nobody_can_want_is_refused(client: httpx.Client, base: str, query: str):
    assert client.get(f"{base}/objects?{query}").status_code == 422


def test_stat_and_delete(client: httpx.Client, base: str, signer: UrlSigner):
    httpx.put(signer.sign("PUT", "routes/gone", 60), content=b"xyz")
    assert client.get(f"{base}/stat/routes/gone").json()["size"] == 3
    assert client.delete(f"{base}/objects/routes/gone").status_code == 204
    assert client.delete(f"{base}/objects/routes/gone").status_code == 204
    assert client.get(f"{base}/stat/routes/gone").status_code == 404
    assert httpx.get(signer.sign("GET", "routes/gone", 60)).status_code == 404


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000000-", 1_000_000, len(DATA)),
        ("bytes=-5", len(DATA) - 5, len(DATA)),
        (f"bytes=5-{10**9}", 5, len(DATA)),
    ],
)
def test_a_range_is_answered_alone(stored: str, asked: str, begin: int, end: int):
    answer = httpx.get(stored, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == DATA[begin:end]
    assert answer.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(DATA)}"
    assert answer.headers["Content-Length"] == str(end - begin)


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", "bytes=5-1", "bytes=0-0,2-3"])
def test_a_range_that_is_not_there_is_a_416(stored: str, asked: str):
    answer = httpx.get(stored, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"
    assert answer.json()["type"].endswith("range-not-satisfiable")


def test_a_range_of_a_replaced_object_is_refused_by_its_tag(stored: str, signer: UrlSigner):
    tag = httpx.get(stored).headers["ETag"]
    assert httpx.get(stored, headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == 206
    httpx.put(signer.sign("PUT", "routes/data", 60), content=DATA)
    again = httpx.get(stored, headers={"Range": "bytes=0-1", "If-Range": tag})
    assert again.status_code == 200
    assert again.headers["ETag"] != tag


def raw(granted: Backend, text: str, body: bytes, *, half_close: bool) -> bytes:
    with socket.create_connection(("127.0.0.1", granted.port), timeout=30) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode() + body)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def put_head(url: str, *fields: str) -> str:
    parts = urlsplit(url)
    return "\n".join(
        [f"PUT {parts.path}?{parts.query} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]
    )


def test_a_put_without_a_length_is_a_411(granted: Backend, signer: UrlSigner):
    head = put_head(signer.sign("PUT", "routes/chunked", 60), "Transfer-Encoding: chunked")
    assert raw(granted, head, b"1\r\nx\r\n0\r\n\r\n", half_close=False).startswith(b"HTTP/1.1 411 ")


def test_a_put_that_is_too_large_is_a_413(granted: Backend, signer: UrlSigner):
    head = put_head(signer.sign("PUT", "routes/large", 60), f"Content-Length: {MAX_OBJECT_BYTES + 1}")
    assert raw(granted, head, b"", half_close=False).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("half_close", [True, False])
def test_a_put_that_is_cut_leaves_nothing(
    granted: Backend, client: httpx.Client, base: str, signer: UrlSigner, half_close: bool
):
    head = put_head(signer.sign("PUT", "cut/a", 60), "Content-Length: 5000000")
    if half_close:
        assert raw(granted, head, b"x" * 3_000_000, half_close=True).startswith(b"HTTP/1.1 400 ")
    else:
        with socket.create_connection(("127.0.0.1", granted.port), timeout=30) as connection:
            connection.sendall(head.replace("\n", "\r\n").encode() + b"x" * 3_000_000)
    assert client.get(f"{base}/stat/cut/a").status_code == 404
    assert client.get(f"{base}/objects?prefix=cut/").json()["objects"] == []


def test_nothing_is_left_of_cut_puts(tmp_path: Path):
    """In this process, to look into the folder: the body ends, then the request is answered with 400."""
    app = issuer_app(tmp_path, "http://x" + BASE_PATH)
    url = urlsplit(UrlSigner(SECRET, "http://x" + BASE_PATH).sign("PUT", "a", 60))
    answer = app.test_client().put(
        f"{url.path}?{url.query}", data=b"short", environ_overrides={"CONTENT_LENGTH": "10"}
    )
    assert answer.status_code == 400
    assert wait_until(lambda: os.listdir(tmp_path / ".incoming") == [], 5)
    assert os.listdir(tmp_path) == [".incoming"]


def test_a_cloud_behind_the_routes_hands_out_its_own_urls(amazon: Backend):
    store = amazon.open(LIMITS, amazon.url)
    app = create_app(__name__, max_body_bytes=10_000, ready=lambda: True)
    app.register_blueprint(objects_blueprint(store, None, lambda: None), url_prefix="/store")
    client = app.test_client()
    granted = client.post("/store/urls", json={"method": "PUT", "key": "routes/a"}).get_json()
    assert granted["url"].startswith(amazon.url)
    assert httpx.put(granted["url"], content=b"bytes").status_code == 200
    granted = client.post("/store/urls", json={"method": "GET", "key": "routes/a"}).get_json()
    assert httpx.get(granted["url"]).content == b"bytes"
    assert client.get("/store/bytes/routes/a").status_code == 404


def test_a_store_that_cannot_sign_says_so(tmp_path: Path):
    app = create_app(__name__, max_body_bytes=10_000, ready=lambda: True)
    store = open_object_store(str(tmp_path))
    app.register_blueprint(objects_blueprint(store, None, lambda: None), url_prefix="/store")
    answer = app.test_client().post("/store/urls", json={"method": "GET", "key": "a"})
    assert answer.status_code == 501


def test_the_routes_are_in_the_document(tmp_path: Path):
    app = issuer_app(tmp_path, "http://x" + BASE_PATH)
    document = json.loads(app.test_client().get("/openapi.json").data)
    validate_openapi(document)
    assert f"{BASE_PATH}/bytes/{{key}}" in document["paths"]
