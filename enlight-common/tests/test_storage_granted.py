"""What only stores behind signed URLs do: the node key stays with the issuer, and URLs expire."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from enlight_common.errors import SigningUnavailable, StoreDenied, StoreUnavailable
from enlight_common.storage import ObjectStore, open_object_store, put_bytes
from storage_backends import LIMITS, Backend
from storage_issuer import BASE_PATH, NODE_KEY
from storage_proxy import Fault, FaultyProxy

pytest_plugins = ("storage_servers",)


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    with contextlib.closing(FaultyProxy()) as proxy:
        yield proxy


@pytest.fixture
def backend(proxy: FaultyProxy, issuer_behind, tmp_path: Path) -> Iterator[Backend]:
    with issuer_behind(proxy, tmp_path / "objects") as backend:
        yield backend


@pytest.fixture
def store(backend: Backend, proxy: FaultyProxy) -> ObjectStore:
    store = backend.open(LIMITS, proxy.url)
    put_bytes(store, "a/b", b"0123456789")
    proxy.seen.clear()
    return store


def asked_for_urls(proxy: FaultyProxy) -> int:
    return sum(request.path.endswith("/urls") for request in proxy.seen)


def test_the_node_key_goes_to_the_issuer_and_never_to_a_signed_url(store: ObjectStore, proxy: FaultyProxy):
    store.get("a/b", io.BytesIO())
    put_bytes(store, "a/c", b"x")
    for request in proxy.seen:
        sent = request.fields.get("authorization")
        assert sent == (None if "/bytes/" in request.path else f"Bearer {NODE_KEY}")
        assert NODE_KEY not in request.path
    assert sum("/bytes/" in request.path for request in proxy.seen) == 2


def test_a_put_states_its_length_and_is_not_chunked(store: ObjectStore, proxy: FaultyProxy):
    put_bytes(store, "a/c", b"x" * 300_000)
    put_bytes(store, "a/d", b"")
    fields = [request.fields for request in proxy.seen if request.method == "PUT"]
    assert [each.get("content-length") for each in fields] == ["300000", "0"]
    assert not any("transfer-encoding" in each for each in fields)


@pytest.mark.parametrize("status", [401, 403])
def test_a_url_that_expired_meanwhile_is_asked_for_once_more(
    store: ObjectStore, backend: Backend, proxy: FaultyProxy, status: int
):
    target = io.BytesIO()
    with proxy.failing(Fault("status", status=status, times=1, matches=backend.is_get)):
        store.get("a/b", target)
    assert target.getvalue() == b"0123456789"
    assert asked_for_urls(proxy) == 2
    with proxy.failing(Fault("status", status=status, times=1, matches=backend.is_put)):
        put_bytes(store, "a/c", b"new")
    assert asked_for_urls(proxy) == 2
    assert store.read("a/c", 10) == b"new"


def test_a_url_that_is_refused_twice_is_denied(store: ObjectStore, backend: Backend, proxy: FaultyProxy):
    for matches in (backend.is_get, backend.is_put):
        with (
            proxy.failing(Fault("status", status=403, matches=matches)),
            pytest.raises(StoreDenied),
        ):
            store.get("a/b", io.BytesIO()) if matches is backend.is_get else put_bytes(store, "a/b", b"x")
        assert len(proxy.hit) == 2
        assert asked_for_urls(proxy) == 2


def test_urls_that_really_expire_are_renewed(issuer_behind, proxy: FaultyProxy, tmp_path: Path):
    """The first range is cut, and by the time of the second the URL is too old."""
    with issuer_behind(proxy, tmp_path / "short", url_expires_s=1) as backend:
        store = backend.open(LIMITS, proxy.url)
        put_bytes(store, "a", b"0123456789")
        target = io.BytesIO()
        waited = []

        def wait_once(method: str, path: str) -> bool:
            if backend.is_get(method, path) and not waited:
                waited.append(time.sleep(1.1))
            return False

        with proxy.failing(Fault("cut", matches=wait_once)):
            store.get("a", target)
        assert target.getvalue() == b"0123456789"
        assert asked_for_urls(proxy) == 2


@pytest.mark.parametrize("location", ["https://127.0.0.1:1/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_to_another_scheme_is_not_followed(
    store: ObjectStore, backend: Backend, proxy: FaultyProxy, location: str
):
    for status in (302, 307):
        with (
            proxy.failing(Fault("status", status=status, location=location, matches=backend.is_get)),
            pytest.raises(StoreDenied),
        ):
            store.get("a/b", io.BytesIO())
    with (
        proxy.failing(Fault("status", status=307, location=location, matches=backend.is_put)),
        pytest.raises(StoreDenied),
    ):
        put_bytes(store, "a/c", b"x")


def test_a_redirect_on_the_same_scheme_is_followed_a_few_times(
    store: ObjectStore, backend: Backend, proxy: FaultyProxy
):
    put_url = {}

    def remember(method: str, path: str) -> bool:
        if backend.is_put(method, path):
            put_url.setdefault("path", path)
        return False

    with proxy.failing(Fault("status", matches=remember)):
        put_bytes(store, "a/c", b"old")
    here = proxy.url + put_url["path"]
    with proxy.failing(Fault("status", status=307, location=here, times=1, matches=backend.is_put)):
        put_bytes(store, "a/c", b"redirected")
    assert store.read("a/c", 100) == b"redirected"
    with (
        proxy.failing(Fault("status", status=307, location=here, matches=backend.is_put)),
        pytest.raises(StoreDenied),
    ):
        put_bytes(store, "a/c", b"x")


def test_a_redirect_of_the_issuer_is_not_followed(store: ObjectStore, proxy: FaultyProxy):
    with (
        proxy.failing(Fault("status", status=302, location=proxy.url)),
        pytest.raises(StoreDenied),
    ):
        store.stat("a/b")
    assert len(proxy.seen) == 1


def test_a_wrong_node_key_is_denied_and_not_repeated(backend: Backend, proxy: FaultyProxy):
    other = open_object_store(f"enlight+{proxy.url}{BASE_PATH}", limits=LIMITS, node_key="a-wrong-key")
    with pytest.raises(StoreDenied) as caught:
        other.stat("a")
    assert "a-wrong-key" not in repr(caught.value)
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("node_key", ["", "a\r\nb", "ü"])
def test_a_node_key_that_cannot_be_one_is_refused_at_once(node_key: str):
    with pytest.raises(StoreDenied, match="ENLIGHT_NODE_KEY"):
        open_object_store("enlight+https://main.example/store", node_key=node_key)


def test_the_node_key_is_found_in_the_environment(
    backend: Backend, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ENLIGHT_NODE_KEY", raising=False)
    with pytest.raises(StoreDenied, match="ENLIGHT_NODE_KEY"):
        open_object_store(f"enlight+{proxy.url}{BASE_PATH}")
    monkeypatch.setenv("ENLIGHT_NODE_KEY", NODE_KEY)
    assert open_object_store(f"enlight+{proxy.url}{BASE_PATH}", limits=LIMITS).stat("a") is None


def test_it_signs_no_urls_itself(store: ObjectStore):
    with pytest.raises(SigningUnavailable):
        store.signed_url("a/b", "GET", 60)


def test_an_answer_that_is_no_json_is_unavailable(proxy: FaultyProxy):
    with contextlib.closing(FaultyProxy(proxy.port)) as outer:
        store = open_object_store(f"enlight+{outer.url}/x", limits=LIMITS, node_key="k")
        with (
            proxy.failing(Fault("status", status=200)),
            pytest.raises(StoreUnavailable),
        ):
            store.stat("a")


def test_bytes_that_only_drip_are_not_waited_for(backend: Backend, store: ObjectStore, proxy: FaultyProxy):
    put_bytes(store, "a/large", b"x" * 10_000_000)  # a quarter of an hour at the drip's speed
    hasty = backend.open(replace(LIMITS, read_s=0.5, least_bytes_per_s=100_000.0, attempts=2), proxy.url)
    with proxy.failing(Fault("drip", matches=backend.is_get)):
        with pytest.raises(StoreUnavailable, match="slowly"):
            hasty.get("a/large", io.BytesIO())
        assert len(proxy.hit) == 2
