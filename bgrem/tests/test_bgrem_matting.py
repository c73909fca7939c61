"""Alpha matting is rembg's own, bounded in work, one request at a time, and ends when nobody waits for it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from bgrem.matting import MAX_UNKNOWN_PIXELS, Matter, find_trimap
from bgrem.models import Models
from bgrem.request import CutOptions, Matting
from bgrem.service import Service
from bgrem_parts import SMALL, astronaut, photos
from enlight_common.errors import InvalidField, Overloaded
from enlight_common.queue import Canceled
from flask.testing import FlaskClient
from picture_parts import in_base64
from PIL import Image
from running_process import until

MATTED = CutOptions(Models.of_rembg().named(SMALL), matting=Matting())
PLAIN = CutOptions(Models.of_rembg().named(SMALL))


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def soft_mask() -> Image.Image:
    """A disc whose rim is 20 pixels wide."""
    rows, columns = np.mgrid[:160, :160]
    away = np.hypot(rows - 80, columns - 80)
    return Image.fromarray(np.clip((60 - away) / 20 * 255, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("erode", [0, 1, 2, 9, 10, 31])
def test_the_trimap_is_rembgs(soft_mask: Image.Image, erode: int) -> None:
    from scipy.ndimage import binary_erosion

    mask = np.array(soft_mask)
    mask[:, :30] = 255  # a subject that touches the border
    structure = np.ones((erode, erode)) if erode else None
    expected = np.full(mask.shape, 128)
    expected[binary_erosion(mask > 240, structure=structure)] = 255
    expected[binary_erosion(mask < 10, structure=structure, border_value=1)] = 0
    assert (find_trimap(mask, Matting(erode=erode)) == expected).all()


def test_too_many_pixels_to_solve_for_are_refused_before_they_are(client: FlaskClient) -> None:
    body = {
        "input_image": in_base64(photos()["cat"].resize((900, 900))),
        "alpha_matting": True,
        "alpha_matting_erode_size": 100,
    }
    answer = client.post("/remove", json=body)
    problem = answer.get_json(force=True)
    assert (answer.status_code, problem["field"]) == (422, "input_image")
    assert str(MAX_UNKNOWN_PIXELS) in problem["detail"]


def test_the_bound_is_on_all_pictures_of_a_request(bgrem_service: Service, soft_mask: Image.Image) -> None:
    unknown = int((find_trimap(np.array(soft_mask), Matting()) == 128).sum())
    matter = Matter(Matting(), never, most_unknown=2 * unknown - 1)
    matter.matte(astronaut(), soft_mask, "input_images[0]")
    with pytest.raises(InvalidField) as caught:
        matter.matte(astronaut(), soft_mask, "input_images[1]")
    assert caught.value.field == "input_images[1]"


def test_matting_ends_between_two_steps_of_its_solver(bgrem_service: Service, soft_mask: Image.Image) -> None:
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return looks == 3

    with pytest.raises(Canceled):
        Matter(Matting(), stop).matte(astronaut(), soft_mask, "input_image")
    assert looks == 3


def test_one_request_is_matted_at_a_time_and_others_go_on(bgrem_service: Service) -> None:
    leave = threading.Event()
    outcome: list[str] = []

    def second() -> None:
        try:
            with bgrem_service.turn(MATTED, leave.is_set):
                outcome.append("worked")
        except Canceled:
            outcome.append("waited")

    with bgrem_service.turn(MATTED, never):
        waiting = threading.Thread(target=second)
        waiting.start()
        until(lambda: bgrem_service.mattings.taken == 2)
        with bgrem_service.turn(PLAIN, never):
            leave.set()
            waiting.join()
    assert outcome == ["waited"]


def test_matting_cannot_fill_the_places_of_others(bgrem_service: Service) -> None:
    leave = threading.Event()
    refused: list[float | None] = []

    def ask() -> None:
        try:
            with bgrem_service.places.enter(), bgrem_service.turn(MATTED, leave.is_set):
                pass
        except Overloaded as error:
            refused.append(error.retry_after)
        except Canceled:
            pass

    with bgrem_service.turn(MATTED, never):
        waiting = [threading.Thread(target=ask) for _ in range(4)]
        for thread in waiting:
            thread.start()
        until(lambda: len(refused) == 3)
        leave.set()
        for thread in waiting:
            thread.join()
    assert len(refused) == 3


def test_a_mask_alone_needs_no_matting(client: FlaskClient, bgrem_service: Service) -> None:
    body: dict[str, Any] = {"input_image": in_base64(astronaut()), "alpha_matting": True, "only_mask": True}
    with bgrem_service.turn(MATTED, never):
        assert client.post("/remove", json=body).status_code == 200
