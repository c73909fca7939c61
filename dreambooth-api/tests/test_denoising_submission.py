"""A request ends once, for one reason, and tells what happens in order."""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest
from dreambooth_api.inference.denoising.submission import Progress, Shown, Submission
from PIL import Image

#: For a thread that may never get there.
SHORTLY_S = 0.5


def test_the_first_reason_counts_whoever_else_has_one_at_the_same_time() -> None:
    whose = Submission(1)
    other_is_done = threading.Event()
    seen: list[str] = []

    def reason() -> str:
        with pytest.raises(KeyError) as error:
            whose.result()
        return str(error.value)

    def hold_up(frame: FrameType, _event: str, _argument: object) -> Any:
        """Lets the other one run between any two lines of the first one's."""
        if frame.f_code is not Submission.fail.__code__:
            return None
        other_is_done.wait(SHORTLY_S / 5)
        return hold_up

    def first() -> None:
        sys.settrace(hold_up)
        whose.fail(KeyError("first"))
        sys.settrace(None)
        seen.append(reason())

    def second() -> None:
        whose.fail(KeyError("second"))
        seen.append(reason())
        other_is_done.set()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
        # The second one comes when the first is in the middle.
        time.sleep(SHORTLY_S / 2)
    for thread in threads:
        thread.join()
    assert len(seen) == 2
    assert len(set(seen)) == 1, "both are told the same"


def picture(value: int) -> Image.Image:
    return Image.new("L", (1, 1), value)


def test_its_end_is_told_once_and_not_by_who_reads_its_pictures() -> None:
    ends: list[str] = []
    drawn = Submission(2, on_end=lambda: ends.append("drawn"))
    drawn.deliver(0, picture(0))
    assert not ends
    drawn.deliver(1, picture(1))
    assert ends == ["drawn"]
    drawn.fail(KeyError("too late"))
    failed = Submission(1, on_end=lambda: ends.append("failed"))
    failed.fail(KeyError("first"))
    failed.fail(KeyError("second"))
    assert ends == ["drawn", "failed"]


def test_pictures_that_are_there_are_not_lost_to_a_later_failure() -> None:
    whose = Submission(1)
    whose.deliver(0, picture(1))
    whose.fail(KeyError("late"))
    assert len(whose.result()) == 1


def test_news_come_in_the_order_in_which_they_happened() -> None:
    whose = Submission(2, preview_steps=2)
    whose.expect(8)
    news = whose.news()
    whose.stepped(2, 0.1)
    assert next(news) == Progress(2, 8)
    assert next(news) is None
    for step in (2, 4):
        whose.show(Shown(0, picture(step), step))
    whose.stepped(2, 0.1)
    whose.stepped(2, 0.1)
    assert next(news) == Progress(6, 8), "what was missed is told together"
    assert next(news) == Shown(0, picture(4), 4), "only the newest of a picture is of interest"
    whose.show(Shown(1, picture(4), 4))
    whose.deliver(1, picture(9))
    assert next(news) == Shown(1, picture(9))
    whose.show(Shown(1, picture(6), 6))
    whose.deliver(0, picture(8))
    assert list(news) == [Shown(0, picture(8))]


def test_what_failed_is_told_after_what_came_before() -> None:
    whose = Submission(2)
    whose.deliver(0, picture(1))
    whose.fail(KeyError("mine"))
    news = whose.news()
    assert next(news) == Shown(0, picture(1))
    with pytest.raises(KeyError, match="mine"):
        next(news)
