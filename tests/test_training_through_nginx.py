"""Trainings go to a free instance, their runs are found again, and a busy instance goes on drawing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from services import Services, drawing, training, wait_until

ASYNC = {"Prefer": "respond-async"}


def begin(client: httpx.Client, number: int) -> str:
    """Begin a training that goes on until it is stopped; returns its run id."""
    answer = client.post("/train", json=training(number), headers=ASYNC)
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    assert answer.headers["Location"] == f"/train/{run_id}"
    return run_id


def state(client: httpx.Client, run_id: str) -> dict[str, Any]:
    answer = client.get(f"/train/{run_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def wait_until_steps_are_done(client: httpx.Client, run_id: str) -> None:
    wait_until(lambda: (state(client, run_id)["step"] or 0) > 0, "a training step")


def instance_of(run_id: str) -> str:
    return run_id.partition("-")[0]


def test_each_training_goes_to_a_free_instance_and_then_all_are_busy(
    services: Services, client: httpx.Client
) -> None:
    runs = [begin(client, number) for number in range(3)]
    assert sorted(map(instance_of, runs)) == services.names

    refused = client.post("/train", json=training(9), headers={**ASYNC, "X-Request-Id": "all-busy"})
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["type"] == "/problems/busy"
    assert services.asked("all-busy") == services.names

    for run_id in runs:
        assert state(client, run_id)["status"] == "processing"
        assert client.delete(f"/train/{run_id}").json()["status"] == "canceled"
        assert state(client, run_id)["status"] == "canceled"
    begin(client, 9)


def test_the_same_request_again_joins_the_run_where_it_goes_on(
    services: Services, client: httpx.Client
) -> None:
    begin(client, 30)
    second = begin(client, 31)
    assert begin(client, 31) == second


def test_events_of_a_run_come_through_and_its_instance_goes_on_drawing(
    services: Services, client: httpx.Client
) -> None:
    begin(client, 40)
    run_id = begin(client, 41)
    steps: set[int] = set()
    with client.stream("GET", f"/train/{run_id}/events") as events:
        assert events.headers["Content-Type"].startswith("text/event-stream")
        for line in events.iter_lines():
            if line.startswith("data:"):
                steps.add(json.loads(line.removeprefix("data:"))["step"] or 0)
            if len(steps) == 3:
                break
    assert state(client, run_id)["status"] == "processing"

    name = instance_of(run_id)
    answer = httpx.post(f"{services.instance_url(name)}/inference", json=drawing(), timeout=120)
    assert answer.status_code == 200
    for n in range(9):
        drawn = client.post("/inference", json=drawing(), headers={"X-Request-Id": f"beside-{n}"})
        assert drawn.status_code == 200
    assert {services.asked(f"beside-{n}")[0] for n in range(9)} == set(services.names)
    assert state(client, run_id)["status"] == "processing"


def test_a_training_whose_instance_is_killed_is_a_502_and_was_begun_once(
    services: Services, client: httpx.Client
) -> None:
    runs_folder = services.data_dir / "runs"
    before = set(runs_folder.glob("*.json"))
    with ThreadPoolExecutor(1) as pool:
        headers = {"X-Request-Id": "killed-training"}
        answer = pool.submit(client.post, "/train", json=training(50), headers=headers)
        wait_until(lambda: len(set(runs_folder.glob("*.json")) - before) == 1, "the run's state file")
        (run_file,) = set(runs_folder.glob("*.json")) - before
        run_id = run_file.stem
        with services.client() as another:
            wait_until_steps_are_done(another, run_id)
        services.kill(instance_of(run_id))
        response = answer.result()

    assert response.status_code == 502
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["message"]
    assert services.asked("killed-training") == [instance_of(run_id)]
    assert set(runs_folder.glob("*.json")) - before == {run_file}
    wait_until(lambda: "dreambooth_api.training" not in " ".join(services.processes()), "the trainer's end")

    # Its instance is down: another answers from the state file.
    assert state(client, run_id)["run_id"] == run_id
    assert client.get("/train/cpu7-0123456789abcdef01234567").status_code == 404

    # A training goes past the instance that is down, and is begun there alone.
    begun = begin(client, 51)
    assert instance_of(begun) != instance_of(run_id)

    services.start()
    ended = state(client, run_id)
    assert ended["status"] == "failed"
    assert "interrupted" in ended["error"]


@pytest.mark.parametrize("path", ["/train", "/inference"])
def test_a_malformed_request_is_refused_by_an_instance_with_its_own_words(
    client: httpx.Client, path: str
) -> None:
    answer = client.post(path, json={"no_such_key": 1})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "no_such_key" in answer.text or "field" in answer.json()
