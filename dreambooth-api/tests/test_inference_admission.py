"""How many drawings are in the service, and what those who find no place are told."""

from __future__ import annotations

import pytest
from dreambooth_api.inference.admission import Admission
from enlight_common.errors import Overloaded


def test_one_drawing_too_many_is_told_when_to_come_again() -> None:
    drawings = Admission(2)
    with drawings.enter() as one, drawings.enter() as other:
        one.expect(3)
        other.expect(4)
        assert drawings.seconds_ahead() == 7 * drawings.seconds_per_picture
        with pytest.raises(Overloaded) as refused, drawings.enter():
            pass
        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
    with drawings.enter():
        pass


def test_a_drawing_waits_until_the_first_step_of_one_of_its_pictures() -> None:
    drawings = Admission(2)
    with drawings.enter() as place:
        place.expect(2)
        assert (drawings.length, drawings.busy) == (1, True)
        place.stepped(1, 8)
        assert (drawings.length, drawings.busy) == (0, True)
    assert not drawings.busy


def test_pictures_are_counted_when_they_are_drawn_and_not_when_they_failed() -> None:
    drawings = Admission(2)
    with drawings.enter() as place:
        place.expect(2)
        place.done()

    def failing() -> None:
        with drawings.enter() as place:
            place.expect(5)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert drawings.pictures_done == 2
    assert drawings.seconds > 0


def test_the_device_is_not_wanted_for_pictures_that_are_done_though_the_place_is_taken() -> None:
    told: list[bool] = []
    drawings = Admission(1, told.append)
    with drawings.enter() as place:
        place.expect(1)
        place.done()
        assert told == [True, False]
        with pytest.raises(Overloaded), drawings.enter():
            pass
    assert told == [True, False]
    assert drawings.pictures_done == 1


def test_the_device_is_wanted_from_the_first_drawing_that_knows_its_pictures_to_the_last() -> None:
    told: list[bool] = []
    drawings = Admission(3, told.append)
    with drawings.enter():
        assert told == []
        with drawings.enter() as one:
            one.expect(1)
            with drawings.enter() as other:
                other.expect(1)
            assert told == [True]
        assert told == [True, False]
