"""``POST /inference`` as server-sent events: progress, previews, and each picture as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from dreambooth_api.inference.engine import Engine
from dreambooth_api.models.store import ModelStore
from dreambooth_api.service import Service
from flask.testing import FlaskClient
from service_parts import SAME, difference, from_base64, publish_adapter, publish_full
from waiting import until

WITHIN_S = 60
EVENTS = {"Accept": "text/event-stream"}
QUICK = {"prompt": "a blue cup", "num_image": 2, "num_inference_steps": 6, "seed": 3}

Told = tuple[str, dict[str, Any]]


def parsed(chunks: Iterator[bytes]) -> Iterator[Told]:
    """The events of a stream, comments left out."""
    text = ""
    for chunk in chunks:
        text += chunk.decode()
        *blocks, text = text.split("\n\n")
        for block in blocks:
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                yield lines["event"], json.loads(lines["data"])


def follow(client: FlaskClient, headers: dict[str, str] | None = None, **fields: Any) -> list[Told]:
    answer = client.post("/inference", json=QUICK | fields, headers=EVENTS | (headers or {}))
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream"), answer.get_json()
    return list(parsed(iter(answer.response)))  # type: ignore[arg-type]


def named(told: list[Told], name: str) -> list[dict[str, Any]]:
    return [data for event, data in told if event == name]


@pytest.fixture(scope="module")
def models(store: ModelStore) -> None:
    publish_adapter(store, "followed-cup", seed=1)
    publish_full(store, "followed-whole", seed=2)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model_id": "followed-cup", "format": "webp"},
        {"scheduler": "unipc"},
        {"model_id": "followed-whole"},
    ],
)
def test_the_events_tell_what_the_kept_answer_does(client: FlaskClient, fields: dict[str, Any]) -> None:
    kept = client.post("/inference", json=QUICK | fields).get_json()
    told = follow(client, **fields)
    pictures = sorted(named(told, "picture"), key=lambda data: data["index"])
    assert [(data["index"], data["seed"]) for data in pictures] == [(0, 3), (1, 4)]
    for data, image in zip(pictures, kept["images"], strict=True):
        mine, theirs = from_base64(data["image"]), from_base64(image)
        assert difference(mine, theirs) <= SAME
        assert data["format"] == kept["format"] == str(mine.format).lower()
        assert getattr(mine, "text", None) == getattr(theirs, "text", None)
    assert told[-1][0] == "done"
    del kept["images"], kept["seconds"]
    assert told[-1][1].pop("seconds") > 0
    assert told[-1][1] == kept


def test_progress_grows_to_the_last_step(client: FlaskClient) -> None:
    told = named(follow(client), "progress")
    done = [data["done"] for data in told]
    assert done == sorted(set(done))
    assert told[-1] == {"done": 12, "steps": 12}


def test_previews_come_nearer_to_the_picture(client: FlaskClient) -> None:
    told = follow(client, preview_steps=2, num_inference_steps=25)
    (final,) = [from_base64(data["image"]) for data in named(told, "picture") if data["index"] == 0]
    previews = [data for data in named(told, "preview") if data["index"] == 0]
    steps = [data["step"] for data in previews]
    assert steps == sorted(set(steps))
    assert all(step % 2 == 0 and 0 < step < 25 for step in steps)

    def distance(data: dict[str, Any]) -> float:
        preview = from_base64(data["image"])
        assert (preview.format, preview.size) == ("JPEG", final.size)
        return float(np.abs(np.asarray(preview, dtype=float) - np.asarray(final, dtype=float)).mean())

    assert distance(previews[-1]) < 10
    assert distance(previews[-1]) < distance(previews[0])


def test_the_preview_of_a_large_picture_is_small(client: FlaskClient) -> None:
    # The tiny model's 256 pixels are 32 latents: more than that are scaled down.
    told = follow(client, preview_steps=1, num_image=1, num_inference_steps=3, width=512, height=128)
    sizes = {from_base64(data["image"]).size for data in named(told, "preview")}
    assert sizes == {(256, 64)}


def test_without_preview_steps_nothing_is_shown(client: FlaskClient) -> None:
    assert named(follow(client), "preview") == []


def test_previews_need_events(client: FlaskClient) -> None:
    answer = client.post("/inference", json=QUICK | {"preview_steps": 2})
    assert (answer.status_code, answer.get_json()["field"]) == (422, "preview_steps")


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/json, text/event-stream;q=0.5"]
)
def test_who_asks_for_no_events_gets_the_kept_answer(client: FlaskClient, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = client.post("/inference", json=QUICK | {"num_inference_steps": 1}, headers=headers)
    assert len(answer.get_json()["images"]) == 2


def test_a_wrong_request_is_a_problem_without_events(client: FlaskClient, service: Service) -> None:
    for fields, status in (({"num_image": 0}, 422), ({"model_id": "nobody"}, 404)):
        answer = client.post("/inference", json=QUICK | fields, headers=EVENTS)
        assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert not service.drawings.busy


def test_what_fails_later_is_the_last_event(client: FlaskClient, engine: Engine, service: Service) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("too much")

    assert engine._parts is not None
    decoder = engine._parts.pipelines.text.vae.decoder
    hook = decoder.register_forward_pre_hook(fails)
    try:
        told = follow(client, num_image=1, height=72)
    finally:
        hook.remove()
    assert [name for name, _ in told][-2:] == ["progress", "error"]
    problem = told[-1][1]
    assert (problem["status"], problem["type"]) == (503, "/problems/out-of-memory")
    assert problem["instance"] == "/inference"
    assert problem["request_id"]
    assert not service.drawings.busy


def test_a_deadline_that_passes_is_the_last_event(client: FlaskClient) -> None:
    ((name, problem),) = follow(client, {"Prefer": "wait=0"}, num_inference_steps=150)[-1:]
    assert (name, problem["status"]) == ("error", 504)


def test_who_goes_frees_the_place_and_the_batch(
    client: FlaskClient, engine: Engine, service: Service
) -> None:
    drawn = service.drawings.pictures_done
    answer = client.post(
        "/inference",
        json=QUICK | {"num_inference_steps": 150, "size": 256, "num_image": 4},
        headers=EVENTS,
        buffered=False,
    )
    events = parsed(iter(answer.response))  # type: ignore[arg-type]
    assert next(events)[0] == "progress"
    assert service.drawings.busy
    answer.close()
    assert not service.drawings.busy
    until(lambda: engine.counts.batch == 0)
    assert service.drawings.pictures_done == drawn


def test_who_goes_before_the_first_event_frees_the_place(client: FlaskClient, service: Service) -> None:
    answer = client.post("/inference", json=QUICK, headers=EVENTS, buffered=False)
    answer.close()
    assert not service.drawings.busy


def test_followers_are_bounded_as_those_who_wait_are(client: FlaskClient, service: Service) -> None:
    with ExitStack() as full:
        for _ in range(service.settings.threads // 4):
            full.enter_context(service.drawings.enter())
        answer = client.post("/inference", json=QUICK, headers=EVENTS)
        assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
        assert answer.headers["Retry-After"]


def test_pictures_of_events_are_counted(client: FlaskClient, service: Service) -> None:
    drawn = service.drawings.pictures_done
    follow(client, num_inference_steps=1)
    assert service.drawings.pictures_done == drawn + 2
