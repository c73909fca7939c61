"""A service that leaves takes its engine with it: no thread, no model, nothing half drawn."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dreambooth_api.app import create_app
from dreambooth_api.inference.engine import Engine
from dreambooth_api.inference.request import DrawRequest, WeightedModel
from dreambooth_api.service import Service
from dreambooth_api.settings import ServiceSettings
from enlight_common.errors import ShuttingDown
from service_parts import publish_adapter
from waiting import until

WITHIN_S = 120
ENGINE_THREADS = {"denoising", "beside the steps", "plain drawings"}
LONG = {"prompt": "a cup", "num_image": 2, "num_inference_steps": 150, "size": 256}


@pytest.fixture
def others() -> set[threading.Thread]:
    """The threads of other tests' services."""
    return set(threading.enumerate())


@pytest.fixture
def leaving(tmp_path: Path, others: set[threading.Thread]) -> Iterator[Service]:
    service = Service(ServiceSettings(data_dir=tmp_path, threads=16, spare_trainer="off"))
    service.start()
    until(lambda: service.ready is True)
    yield service
    service.drain(0)


def engine_threads(others: set[threading.Thread]) -> list[str]:
    mine = set(threading.enumerate()) - others
    return [thread.name for thread in mine if thread.name in ENGINE_THREADS]


def test_what_is_drawn_at_the_end_of_the_grace_is_given_up_and_nothing_is_left(
    leaving: Service, others: set[threading.Thread]
) -> None:
    publish_adapter(leaving.store, "cup", seed=1)
    app, engine = create_app(leaving), leaving.engine
    assert len(engine_threads(others)) == len(ENGINE_THREADS)

    def draw(**fields: Any) -> tuple[int, dict[str, Any]]:
        answer = app.test_client().post("/inference", json=LONG | fields)
        return answer.status_code, answer.get_json()

    with ThreadPoolExecutor() as pool:
        # One is stepped, one is drawn by plain diffusers, and one follows the events.
        drawings = [pool.submit(draw, model_id="cup"), pool.submit(draw, scheduler="unipc")]
        events = pool.submit(
            lambda: (
                app.test_client().post("/inference", json=LONG, headers={"Accept": "text/event-stream"}).data
            )
        )
        until(lambda: leaving.drawings.busy and engine.counts.batch and leaving.drawings.length == 0)
        assert engine.loaded.sizes
        leaving.drain(grace_s=0.1)
        for drawing in drawings:
            status, problem = drawing.result(WITHIN_S)
            assert (status, problem["type"]) == (503, "/problems/shutting-down"), problem
        last = events.result(WITHIN_S).decode().rstrip().splitlines()
        assert last[-2] == "event: error"
        assert json.loads(last[-1].removeprefix("data: "))["type"] == "/problems/shutting-down"
    assert engine_threads(others) == []
    assert engine.loaded.sizes == {}
    assert engine.counts.batch == 0
    assert draw()[0] == 503
    with pytest.raises(ShuttingDown):
        engine.draw(DrawRequest("a cup", num_image=1))


def test_what_is_still_drawn_when_the_engine_is_closed_is_told_so(
    engine: Engine, others: set[threading.Thread]
) -> None:
    publish_adapter(engine._store, "closed-upon", seed=1)
    closing = Engine(engine.base, engine._store)
    closing.load()
    request = DrawRequest("a cup", num_image=1, steps=150, width=256, height=256)
    with_model = replace(request, models=(WeightedModel("closed-upon"),))
    begun: set[str] = set()
    with ThreadPoolExecutor() as pool:
        drawings = [
            pool.submit(closing.draw, one, on_step=lambda *_, name=name: begun.add(name))
            for name, one in (("batch", with_model), ("plain", replace(request, scheduler="unipc")))
        ]
        until(lambda: len(begun) == 2)
        closing.close(timeout_s=WITHIN_S)
        for drawing in drawings:
            with pytest.raises(ShuttingDown):
                drawing.result(WITHIN_S)
    assert engine_threads(others) == []
    closing.close()


def test_an_engine_that_is_loaded_when_the_service_has_left_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: set[threading.Thread]
) -> None:
    service = Service(ServiceSettings(data_dir=tmp_path, threads=16, spare_trainer="off"))
    loading, go_on = threading.Event(), threading.Event()
    load = service._loaded_engine

    def slowly() -> Engine:
        loading.set()
        assert go_on.wait(WITHIN_S)
        return load()

    monkeypatch.setattr(service, "_loaded_engine", slowly)
    service.start()
    assert loading.wait(WITHIN_S)
    service.drain(0)
    go_on.set()
    until(lambda: "load" not in {thread.name for thread in set(threading.enumerate()) - others})
    assert service.loaded_engine is None
    assert engine_threads(others) == []


def test_what_was_learned_about_batches_is_known_after_a_restart(tmp_path: Path, engine: Engine) -> None:
    first = Engine(engine.base, engine._store, figures_folder=tmp_path)
    first.load()
    first.draw(DrawRequest("a cup", num_image=2, steps=8, width=64, height=64))
    first.close()
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    assert (8, 8, 2) in [(one["height"], one["width"], one["size"]) for one in kept["figures"]]
    # As if two together had taken for longer than one after the other.
    alone, together = ({"height": 8, "width": 8, "size": size, "seconds": size**2} for size in (1, 2))
    file.write_text(json.dumps(kept | {"figures": [alone, together]}))
    second = Engine(engine.base, engine._store, figures_folder=tmp_path)
    second.load()
    second.draw(DrawRequest("a cup", num_image=2, steps=4, width=64, height=64))
    assert (second.counts.batches, second.counts.picture_steps) == (8, 8)
    second.close()
