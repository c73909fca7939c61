"""The model store over an object store that fails on the wire, by a proxy in front of a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from dreambooth_api.models.cache.model_cache import ModelCache
from dreambooth_api.models.catalog import Catalog
from dreambooth_api.models.store import ModelStore
from enlight_common.errors import EnlightError, StoreCorrupt, StoreUnavailable
from enlight_common.storage import StorageLimits
from models_parts import LARGE, is_right, manifest, publish, result
from storage_backends import Backend
from storage_proxy import Fault, FaultyProxy

pytest_plugins = ("storage_servers",)

ATTEMPTS = 3
LIMITS = StorageLimits(attempts=ATTEMPTS, backoff_s=0.01, max_backoff_s=0.02, read_s=1.0)
SIZE = 2_000_000


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    made = FaultyProxy()
    yield made
    made.close()


@pytest.fixture
def backend(
    proxy: FaultyProxy, tmp_path: Path, issuer_behind: Callable[..., AbstractContextManager[Backend]]
) -> Iterator[Backend]:
    with issuer_behind(proxy, tmp_path / "objects") as issuer:
        yield issuer


@pytest.fixture
def store(backend: Backend, proxy: FaultyProxy, tmp_path: Path) -> ModelStore:
    """One that asks the object store each time, with a model in it that is not at hand."""
    catalog = Catalog(backend.open(LIMITS, proxy.url))
    made = ModelStore(catalog, ModelCache(tmp_path / "cache", catalog, LARGE), fresh_s=0)
    publish(made, tmp_path / "result", "shoe", size=SIZE)
    return made


def fetch(store: ModelStore, model_id: str = "shoe") -> None:
    with store.open(model_id) as artifact:
        assert is_right(artifact)


def assert_nothing_is_left(store: ModelStore) -> None:
    space = store.cache.inventory
    assert store.cached() == []
    assert not [*space.incoming.iterdir(), *space.trash.iterdir(), *space.damaged.iterdir()]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", times=ATTEMPTS - 1),
        Fault("reset", times=ATTEMPTS - 1),
        Fault("cut", times=ATTEMPTS - 1, at=SIZE // 2),
        Fault("stall", times=1, at=SIZE // 2),
        Fault("flip", times=1, at=SIZE // 2),
    ],
    ids=lambda fault: fault.kind,
)
def test_what_goes_wrong_for_a_moment_is_tried_again(
    store: ModelStore, backend: Backend, proxy: FaultyProxy, fault: Fault
) -> None:
    def weights(method: str, path: str) -> bool:
        return backend.is_get(method, path) and "model.safetensors" in path

    with proxy.failing(replace(fault, matches=weights)):
        fetch(store)
        assert len(proxy.hit) == fault.times
    assert store.cache.counts.misses == 1


@pytest.mark.parametrize(
    ("kind", "error", "most"),
    [
        ("status", StoreUnavailable, ATTEMPTS),
        ("reset", StoreUnavailable, ATTEMPTS),
        ("stall", StoreUnavailable, ATTEMPTS),
        ("cut", (StoreUnavailable, StoreCorrupt), 2 * ATTEMPTS),
        ("flip", StoreCorrupt, 2),
    ],
)
def test_what_stays_wrong_ends_in_an_error_and_leaves_nothing(
    store: ModelStore,
    backend: Backend,
    proxy: FaultyProxy,
    kind: str,
    error: type[EnlightError],
    most: int,
) -> None:
    def weights(method: str, path: str) -> bool:
        return backend.is_get(method, path) and "model.safetensors" in path

    with proxy.failing(Fault(kind, at=1000, matches=weights)):
        with pytest.raises(error), store.open("shoe"):
            pass
        assert 1 <= len(proxy.hit) <= most
    assert_nothing_is_left(store)
    fetch(store)


def test_models_at_hand_are_served_while_the_store_is_away(
    store: ModelStore, proxy: FaultyProxy, tmp_path: Path
) -> None:
    publish(store, tmp_path / "result", "boot")
    fetch(store)
    with proxy.failing(Fault("reset")):
        fetch(store)
        with pytest.raises(StoreUnavailable), store.open("boot"):
            pass
        with pytest.raises(StoreUnavailable):
            store.list()
    fetch(store, "boot")


def test_a_store_that_hangs_does_not_hold_up_what_is_at_hand(
    store: ModelStore, backend: Backend, proxy: FaultyProxy
) -> None:
    fetch(store)
    patient = Catalog(backend.open(replace(LIMITS, read_s=3600.0), proxy.url))
    hanging = ModelStore(patient, ModelCache(store.cache.inventory.root, patient, LARGE))
    with proxy.failing(Fault("silence")):
        for _ in range(2):
            fetch(hanging)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: fetch(hanging), range(8)))
        assert len(proxy.hit) == 1, "one asks for all"


def test_a_version_that_only_the_store_knows_of_is_no_404_while_it_is_away(
    store: ModelStore, proxy: FaultyProxy
) -> None:
    fetch(store)
    with proxy.failing(Fault("reset")):
        with pytest.raises(StoreUnavailable), store.open("shoe@v2"):
            pass
        restarted = ModelStore(store.catalog, store.cache)
        with pytest.raises(StoreUnavailable), restarted.open("shoe@v2"):
            pass


def test_a_model_whose_upload_was_broken_off_is_not_there_until_it_is_published_again(
    store: ModelStore, backend: Backend, proxy: FaultyProxy, tmp_path: Path
) -> None:
    made = result(tmp_path / "result", size=SIZE, seed=3)
    with proxy.failing(Fault("cut-upload", at=SIZE // 2, matches=backend.is_put)):
        with pytest.raises(StoreUnavailable):
            store.publish(made, manifest("boot", version="v1"))
        assert [found.model_id for found in store.list()] == ["shoe"]
    store.publish(made, manifest("boot", version="v1"))
    fetch(store, "boot")
    assert store.cache.counts.misses == 0
