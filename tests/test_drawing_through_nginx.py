"""Drawings go to the least busy instance, or to the one that the model's name leads to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
from services import Services, drawing, long_drawing, wait_until


def draw(services: Services, request_id: str, body: dict[str, object], **headers: str) -> httpx.Response:
    with services.client() as client:
        return client.post("/inference", json=body, headers={"X-Request-Id": request_id, **headers})


def test_drawings_at_the_same_time_are_drawn_by_different_instances(services: Services) -> None:
    bodies = [drawing(num_inference_steps=40, seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(draw, [services] * 3, ["same-0", "same-1", "same-2"], bodies))
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert sorted(services.asked(f"same-{n}")[0] for n in range(3)) == services.names


def test_an_instance_that_draws_gets_no_more_while_others_are_idle(services: Services) -> None:
    with services.left_waiting("/inference", long_drawing()):
        wait_until(lambda: len(services.busy_drawing()) == 1, "an instance that draws")
        (busy,) = services.busy_drawing()
        for n in range(6):
            assert draw(services, f"idle-{n}", drawing()).status_code == 200
    assert busy not in {services.asked(f"idle-{n}")[0] for n in range(6)}


def test_a_client_that_goes_away_frees_its_instance(services: Services) -> None:
    with services.left_waiting("/inference", long_drawing()):
        wait_until(lambda: len(services.busy_drawing()) == 1, "an instance that draws")
    wait_until(lambda: services.busy_drawing() == [], "the instance to be free")


def test_the_same_model_id_leads_to_the_same_instance_and_others_elsewhere(services: Services) -> None:
    for n in range(5):
        assert draw(services, f"shoe-{n}", drawing(), **{"X-Model-Id": "shoe"}).status_code == 200
    assert len({services.asked(f"shoe-{n}")[0] for n in range(5)}) == 1

    for n in range(12):
        assert draw(services, f"other-{n}", drawing(), **{"X-Model-Id": f"model-{n}"}).status_code == 200
    assert len({services.asked(f"other-{n}")[0] for n in range(12)}) > 1


def test_the_same_seed_gives_the_same_picture_on_every_instance(services: Services) -> None:
    pictures = set()
    for name in services.names:
        answer = httpx.post(
            f"{services.instance_url(name)}/inference", json=drawing(num_inference_steps=5), timeout=120
        )
        pictures.add(answer.json()["images"][0])
    assert len(pictures) == 1


def test_a_drawing_whose_instance_is_killed_is_a_502_and_others_go_on(services: Services) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(draw, services, "killed-drawing", long_drawing())
        wait_until(lambda: len(services.busy_drawing()) == 1, "an instance that draws")
        (victim,) = services.busy_drawing()
        services.kill(victim)
        response = answer.result()

    assert response.status_code == 502
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["status"] == 502
    assert response.json()["message"]
    assert services.asked("killed-drawing") == [victim]
    for other in set(services.names) - {victim}:
        assert services.metric(other, "requests_in_flight") == 1  # the one that asks

    for n in range(6):
        assert draw(services, f"two-left-{n}", drawing()).status_code == 200
        assert draw(services, f"two-left-{n}-by-id", drawing(), **{"X-Model-Id": f"m{n}"}).status_code == 200
