"""Weights that are not on the disk: fetched once, waited for by few, and what failed is remembered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bgrem.app import create_app
from bgrem.models import Model, Models
from bgrem.service import Service
from bgrem.settings import ServiceSettings
from bgrem_parts import SMALL, WEIGHTS_DIR, astronaut, weights
from enlight_common.errors import InvalidField, Unavailable
from enlight_common.fetching import BeingFetched, Fetches
from enlight_common.queue import Canceled
from enlight_common.weights import Weight
from picture_parts import in_base64
from running_process import until

MD5 = "0" * 32
BODY = {"input_image": in_base64(astronaut())}


class Releases:
    """A server of weights: `/missing…` is a 404, all else is never answered before `let_go`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let_go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if not self.path.startswith("/missing"):
                    outer.let_go.wait()
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def model(self, name: str) -> Model:
        url = f"http://127.0.0.1:{self.server.server_port}/{name}.onnx"
        weight = Weight(name, f"rembg/{name}.onnx", md5=MD5, urls=(url,))
        return Model(name, Models.of_rembg().named(SMALL).session_class, (weight,))


@pytest.fixture
def releases() -> Iterator[Releases]:
    started = Releases()
    yield started
    started.let_go.set()
    started.server.shutdown()
    started.server.server_close()


def never() -> bool:
    return False


def test_what_could_not_be_fetched_is_answered_from_memory(releases: Releases, tmp_path: Path) -> None:
    fetches = Fetches()
    model = releases.model("missing")
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            model.obtain(tmp_path, fetches, never)
        assert caught.value.type == "unavailable"
        assert 0 < (caught.value.retry_after or 0) <= 60
        asked = len(releases.asked)
    assert asked == 3  # the attempts of one fetch


def test_what_could_not_be_fetched_is_tried_again_later(releases: Releases, tmp_path: Path) -> None:
    fetches = Fetches(remember_s=0.0)
    model = releases.model("missing")
    for _ in range(2):
        with pytest.raises(Unavailable):
            model.obtain(tmp_path, fetches, never)
    assert len(releases.asked) == 6


def test_a_model_on_the_disk_waits_for_no_download(releases: Releases) -> None:
    weights()
    fetches = Fetches()
    leave = threading.Event()
    known = Models.of_rembg().named(SMALL)
    with ThreadPoolExecutor(2) as clients:
        slow = [
            clients.submit(releases.model(f"slow-{n}").obtain, WEIGHTS_DIR, fetches, leave.is_set)
            for n in range(2)
        ]
        until(lambda: len(releases.asked) == 2)
        assert known.obtain(WEIGHTS_DIR, fetches, never) == known.paths(WEIGHTS_DIR)
        leave.set()
        for one in slow:
            assert isinstance(one.exception(), Canceled)


def test_few_wait_for_weights_and_the_next_are_told_to_come_back(releases: Releases, tmp_path: Path) -> None:
    fetches = Fetches()
    leave = threading.Event()
    with ThreadPoolExecutor(6) as clients:
        asked = [
            clients.submit(releases.model("slow").obtain, tmp_path, fetches, leave.is_set) for _ in range(6)
        ]
        until(lambda: sum(one.done() for one in asked) == 2)
        refused = [one.exception() for one in asked if one.done()]
        leave.set()
        others = [one.exception() for one in asked if not isinstance(one.exception(), BeingFetched)]
    assert [type(one) for one in refused] == [BeingFetched] * 2
    assert [type(one) for one in others] == [Canceled] * 4
    assert len(releases.asked) == 1


def test_a_damaged_file_is_fetched_again(releases: Releases, tmp_path: Path) -> None:
    (tmp_path / "rembg").mkdir()
    (tmp_path / "rembg" / "missing.onnx").write_bytes(b"damaged")
    with pytest.raises(Unavailable):
        releases.model("missing").obtain(tmp_path, Fetches(), never)
    assert releases.asked


def test_the_operators_file_is_asked_for_by_its_name(tmp_path: Path) -> None:
    model = Models.of_rembg().named("u2net_custom")
    with pytest.raises(InvalidField, match=r"rembg/u2net_custom\.onnx"):
        model.obtain(tmp_path, Fetches(), never)


def test_who_waits_for_weights_holds_up_nobody(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    weights()
    known = Models.of_rembg()
    offered = Models({SMALL: known.named(SMALL), "slow": releases.model("slow")})
    monkeypatch.setattr(Models, "of_rembg", lambda: offered)
    settings = ServiceSettings(weights_dir=WEIGHTS_DIR, default_model=SMALL, compute_threads=1, threads=16)
    service = Service(settings)
    service.start()
    until(lambda: service.cutter.ready is True)
    client = create_app(service).test_client()
    with ThreadPoolExecutor(4) as clients:
        # More than have a hand.
        asked = [clients.submit(client.post, "/remove", json={**BODY, "model": "slow"}) for _ in range(4)]
        until(lambda: service.places.taken == 4)
        assert client.post("/remove", json=BODY).status_code == 200
        assert service.places.taken == 4
        releases.let_go.set()
        assert {one.result().status_code for one in asked} == {503}
    service.drain(grace_s=5)
