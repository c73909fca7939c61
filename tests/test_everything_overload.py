"""Ten times more than it can take: what is too much is sent away, what was accepted is done."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from everything_parts import QuickInstance, Worker
from main_api_servers import Api, MainApi, MongoStandIn, RedisServer
from waiting import until

THREADS = 16  # the fewest that main-api takes
CLIENTS = 10 * THREADS
SECONDS = 5.0
MAX_QUEUED = 40
HEALTH_S = 5.0  # a load balancer's patience


@pytest.fixture(scope="module")
def main_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainApi]:
    """A main-api of few threads and a short queue, with a worker that draws quickly."""
    folder: Path = tmp_path_factory.mktemp("overload")
    with ExitStack() as stack:
        mongo, redis, drawing = MongoStandIn(folder), RedisServer(folder), QuickInstance()
        stack.callback(drawing.close)
        settings = {"THREADS": str(THREADS), "MAX_QUEUED": str(MAX_QUEUED), "REQUESTS_A_MINUTE": "1000000"}
        api = MainApi(folder, mongo, redis, **settings)
        for server in (mongo, redis, api):
            stack.callback(server.kill)
            server.start()
        with api.as_node() as node:
            worker = Worker("quick", folder, api, node.key, INSTANCE_URL=drawing.url, KINDS="generation")
        stack.callback(worker.kill)
        worker.start()
        yield api


@pytest.mark.parametrize("prefer", ["respond-async", "wait=30"])
def test_the_surplus_is_sent_away_and_what_was_accepted_is_done(main_api: MainApi, prefer: str) -> None:
    over = time.monotonic() + SECONDS
    with main_api.as_tenant(f"crowd-{prefer[:4]}") as tenant, Health(main_api) as health:
        crowd = Crowd(tenant, prefer, lambda: time.monotonic() >= over)
        crowd.press()
        assert set(crowd.statuses) <= {200, 202, 429, 503}, crowd.statuses
        assert crowd.statuses[429] + crowd.statuses[503] > crowd.statuses[200] + crowd.statuses[202] > 0
        assert crowd.without_retry_after == 0
        until(lambda: all(ended(tenant, job_id) for job_id in crowd.accepted), "the accepted jobs' ends")
        statuses = Counter(tenant.job(job_id)["status"] for job_id in crowd.accepted)
    assert statuses == {"succeeded": len(crowd.accepted)}
    assert health.statuses == {200: sum(health.statuses.values())}
    print(
        f"\n{prefer}: answered {dict(crowd.statuses)}, done {dict(statuses)}, healthy {dict(health.statuses)}"
    )


def ended(tenant: Api, job_id: str) -> bool:
    return str(tenant.job(job_id)["status"]) in ("succeeded", "failed", "canceled")


class Crowd:
    """Many clients that never wait for a better moment."""

    def __init__(self, tenant: Api, prefer: str, over: Callable[[], bool]) -> None:
        self.statuses: Counter[int] = Counter()
        self.without_retry_after = 0
        self.accepted: list[str] = []
        self._tenant, self._prefer, self._over = tenant, prefer, over
        self._lock = threading.Lock()

    def press(self) -> None:
        """Return when all are through."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            for done in [clients.submit(self._push) for _ in range(CLIENTS)]:
                done.result()

    def _push(self) -> None:
        while not self._over():
            answer = self._tenant.post(
                "/v1/generations",
                json={"prompt": "a red ball", "num_inference_steps": 1},
                headers={"Prefer": self._prefer},
            )
            with self._lock:
                self.statuses[answer.status_code] += 1
                if answer.status_code in (200, 202):
                    self.accepted.append(answer.json()["id"])
                elif "Retry-After" not in answer.headers:
                    self.without_retry_after += 1


class Health:
    """Asks again and again whether main-api is alive, each time on a connection of its own."""

    def __init__(self, main_api: MainApi) -> None:
        self.statuses: Counter[int] = Counter()
        self._url = f"{main_api.url}/healthz"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Health:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.2):
            try:
                self.statuses[httpx.get(self._url, timeout=HEALTH_S).status_code] += 1
            except httpx.TransportError:
                self.statuses[0] += 1
