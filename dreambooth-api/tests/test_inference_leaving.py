"""Who stops waiting is let go wherever the drawing is, and what others wait for goes on for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
from dreambooth_api.inference import engine as engine_module
from dreambooth_api.inference.caller import Caller, Errands
from dreambooth_api.inference.engine import Engine
from dreambooth_api.inference.request import DrawRequest, WeightedModel
from dreambooth_api.models.store import ModelStore, open_store
from dreambooth_api.service import Service
from enlight_common.errors import TimedOut
from enlight_common.queue import Canceled
from flask.testing import FlaskClient
from service_parts import difference, publish_adapter, publish_full
from waiting import until

WITHIN_S = 60
QUICK = DrawRequest("a red shoe", num_image=1, steps=2, seed=11)


class Gate:
    """Holds calls up until it is opened, and counts them. What comes back while it is closed did not wait."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call, self._opened = call, threading.Event()
        self.calls = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        assert self._opened.wait(WITHIN_S)
        return self._call(*args, **options)

    def open(self) -> None:
        self._opened.set()

    def until_called(self, times: int = 1) -> None:
        until(lambda: self.calls >= times)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], Gate]]:
    """Puts a gate before a function."""
    made: list[Gate] = []

    def put(owner: Any, name: str) -> Gate:
        made.append(Gate(getattr(owner, name)))
        monkeypatch.setattr(owner, name, made[-1])
        return made[-1]

    yield put
    for one in made:
        one.open()


class Client:
    """A caller that can leave."""

    def __init__(self) -> None:
        self._gone = threading.Event()
        self.caller = Caller(stop=self._gone.is_set)

    def leave(self) -> None:
        self._gone.set()


@pytest.fixture
def far(tmp_path: Path) -> ModelStore:
    """A store with the model "far", which is not in the cache."""
    store = open_store((tmp_path / "store").as_uri(), tmp_path / "cache", 10**9)
    assert store.cache.evict(publish_adapter(store, "far", seed=1).manifest.key)
    return store


FAR = replace(QUICK, models=(WeightedModel("far"),))


def test_a_client_that_leaves_during_a_download_is_let_go_and_others_get_it(
    engine: Engine, far: ModelStore, gate: Callable[[Any, str], Gate]
) -> None:
    drawing, download = Engine(engine.base, far), gate(far.catalog.objects, "get")
    leaving = Client()
    with ThreadPoolExecutor() as pool:
        left, kept = pool.submit(drawing.prepare, FAR, leaving.caller), pool.submit(drawing.prepare, FAR)
        download.until_called()
        leaving.leave()
        with pytest.raises(Canceled):
            left.result(WITHIN_S)
        assert not kept.done()
        download.open()
        with kept.result(WITHIN_S) as prepared:
            assert prepared.uses[0].model_id == "far"
            assert not far.cache.evict(prepared.artifacts[0].manifest.key), "it is open"
    assert far.cache.counts.misses == 1
    # Also the one who left holds it no longer.
    until(lambda: far.cache.evict(prepared.artifacts[0].manifest.key))


def test_a_deadline_counts_during_a_download(
    engine: Engine, far: ModelStore, gate: Callable[[Any, str], Gate]
) -> None:
    gate(far.catalog.objects, "get")
    with pytest.raises(TimedOut):
        Engine(engine.base, far).prepare(FAR, Caller(deadline_s=0.1))


def test_a_client_that_waits_no_longer_is_told_so_during_a_download(
    client: FlaskClient, service: Service, store: ModelStore, gate: Callable[[Any, str], Gate]
) -> None:
    assert store.cache.evict(publish_adapter(store, "afar", seed=1).manifest.key)
    download = gate(store.catalog.objects, "get")
    body = {"prompt": "a cup", "num_image": 1, "num_inference_steps": 1, "model_id": "afar"}
    answer = client.post("/inference", json=body, headers={"Prefer": "wait=1"})
    assert (answer.status_code, download.calls > 0) == (504, True)
    assert not service.drawings.busy
    download.open()
    assert client.post("/inference", json=body).status_code == 200


def test_a_client_that_leaves_while_its_adapter_is_read_is_let_go_and_others_draw_with_it(
    engine: Engine, store: ModelStore, gate: Callable[[Any, str], Gate]
) -> None:
    publish_adapter(store, "long-read", seed=2)
    request = replace(QUICK, models=(WeightedModel("long-read"),))
    reading = gate(engine_module, "read_adapter")
    leaving = Client()
    with ThreadPoolExecutor() as pool:
        left = pool.submit(engine.draw, request, leaving.caller)
        reading.until_called()
        kept = pool.submit(engine.draw, request)
        leaving.leave()
        with pytest.raises(Canceled):
            left.result(WITHIN_S)
        reading.open()
        assert kept.result(WITHIN_S).recipe.models[0].model_id == "long-read"
    assert reading.calls == 1


@pytest.mark.parametrize("sampler", ["ddim", "unipc"])
def test_a_deadline_counts_while_the_thread_beside_the_steps_is_busy(
    engine: Engine, gate: Callable[[Any, str], Gate], sampler: str
) -> None:
    assert engine._parts is not None
    gate(engine._parts.pipelines.text, "encode_prompt")
    request = replace(QUICK, prompt=f"said to {sampler} alone", scheduler=sampler)
    with pytest.raises(TimedOut):
        engine.draw(request, Caller(deadline_s=0.1))


def test_a_client_that_leaves_while_a_fine_tune_is_loaded_is_let_go(
    engine: Engine, store: ModelStore, gate: Callable[[Any, str], Gate]
) -> None:
    publish_full(store, "heavy", seed=3)
    request = replace(QUICK, models=(WeightedModel("heavy"),))
    loading = gate(diffusers.DiffusionPipeline, "from_pretrained")
    leaving = Client()
    with ThreadPoolExecutor() as pool:
        left = pool.submit(engine.draw, request, leaving.caller)
        loading.until_called()
        leaving.leave()
        with pytest.raises(Canceled):
            left.result(WITHIN_S)
        for _ in range(3):
            waiting = pool.submit(engine.draw, replace(QUICK, scheduler="unipc"), Caller(deadline_s=0.1))
            with pytest.raises(TimedOut):
                waiting.result(WITHIN_S)
        assert engine._parts is not None
        assert len(engine._parts.plain._queue) <= 1, "of those who left nothing is kept"
        batched = pool.submit(engine.draw, replace(QUICK, scheduler="ddim"))
        assert batched.result(WITHIN_S).pictures, "nobody else waits for it"
        loading.open()
    assert difference(*(engine.draw(request).pictures[0].image for _ in range(2))) == 0


def test_those_who_leave_cannot_pile_up_errands() -> None:
    errands, leaving, gate = Errands(abandoned=1), Client(), Gate(lambda: "done")
    thrown_away: list[str] = []
    with ThreadPoolExecutor() as pool:

        def errand() -> Future[str]:
            return pool.submit(errands.run, gate, leaving.caller, thrown_away.append)

        both = [errand(), errand()]
        gate.until_called(2)
        leaving.leave()
        until(lambda: any(one.done() for one in both))
        (first,) = [one for one in both if one.done()]
        (second,) = [one for one in both if one is not first]
        with pytest.raises(Canceled):
            first.result()
        time.sleep(0.6)  # it looks twice meanwhile
        assert not second.done(), "its place is taken until its work is over"
        gate.open()
        assert second.result(WITHIN_S) == "done"
    until(lambda: thrown_away == ["done"])
    with pytest.raises(Canceled):
        errands.run(gate, leaving.caller)
    assert gate.calls == 2, "who is gone already begins nothing"
