"""Jobs of every kind while whatever they need is killed: each one that was accepted ends, and ends once."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from background_parts import Background, OtherServer, image_service
from everything_parts import Instance, QuickInstance, Worker, coloured_picture, quiet_ports
from main_api_servers import MainApi, MongoStandIn, RedisServer, Server
from pymongo import MongoClient
from pymongo.errors import PyMongoError

JOBS = int(os.environ.get("CHAOS_JOBS", "500"))
SEED = int(os.environ.get("CHAOS_SEED", time.time_ns() % 1_000_000))
TRAININGS = max(1, JOBS // 160)
CLIENTS = 8
#: In pauses of the clients, besides what they wait for. Everything is killed twice in about the time of both,
#: so that few kills find nothing to do.
SUBMITTING_S = 25.0
PATIENCE_S = 400.0  # a dead lock is a failure, a slow machine is none
LEASE_S = 8.0
TERMINAL = ("succeeded", "failed", "canceled")
TENANT = "chaos"

Body = dict[str, Any]


class Everything:
    """All servers of an installation, each of which may be killed and started again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        images = stack.enter_context(OtherServer(image_service))
        self.quick = QuickInstance()
        stack.callback(self.quick.close)
        self.mongo = MongoStandIn(folder)
        redis, broker = RedisServer(folder), RedisServer(folder)
        broker.name = "broker"
        instance_port = quiet_ports(1)
        self.main_api = MainApi(
            folder,
            self.mongo,
            redis,
            BROKER_URL=broker.url,
            DREAMBOOTH_URL=f"http://127.0.0.1:{instance_port}",
            BGREM_URL=images.url,
            UPSAMPLER_URL=images.url,
            REALESRGAN_URL=images.url,
            LEASE_S=f"{LEASE_S:g}",
            SWEEP_S="0.5",
            BACKGROUND_SWEEP_S="1",
            MAX_PROCESSING="64",
            MAX_QUEUED="10000",
            REQUESTS_A_MINUTE="100000",
        )
        for server in (self.mongo, redis, broker, self.main_api):
            stack.callback(server.kill)
            server.start()
        self.client = stack.enter_context(self.main_api.as_tenant(TENANT))
        with self.main_api.as_node() as node:
            key = node.key
        self.instance = Instance(folder, self.main_api, key, port=instance_port)
        quick = {"INSTANCE_URL": self.quick.url, "KINDS": "generation", "GENERATIONS": "4"}
        self.workers: list[Server] = [
            Worker("real", folder, self.main_api, key, INSTANCE_URL=self.instance.url),
            Worker("quick-1", folder, self.main_api, key, **quick),
            Worker("quick-2", folder, self.main_api, key, **quick),
        ]
        background = Background(folder, self.main_api)
        for server in (self.instance, *self.workers, background):
            stack.callback(server.kill)
            server.start()
        wait_for(self.instance.is_ready, "the real instance")
        #: In the order in which they can be started.
        self.victims: list[Server] = [
            self.mongo, redis, broker, self.main_api, background, self.instance, *self.workers,
        ]  # fmt: skip

    def revive(self, server: Server) -> None:
        """Start it again; a connection of somebody else may have its port for a moment."""
        for _ in range(20):
            try:
                server.start()
                return
            except AssertionError:
                server.kill()
                time.sleep(0.5)
        raise AssertionError(f"{server.name} does not start any more")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    with ExitStack() as stack:
        yield Everything(tmp_path_factory.mktemp("chaos"), stack)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_accepted_job_ends_once_whatever_is_killed(everything: Everything) -> None:
    print(f"\nCHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    requests = [request(number, chance) for number in range(JOBS)]
    witness = Witness(everything.mongo)
    killer = Killer(everything, random.Random(SEED + 1))
    began = time.monotonic()
    with killer, witness:
        with ThreadPoolExecutor(CLIENTS) as clients:
            accepted = list(clients.map(Client(everything).submit, range(JOBS), requests))
        print(f"all were accepted after {time.monotonic() - began:.0f} s")
        # Most of the work is done under fire, and the last of it in peace: otherwise it need not end.
        wait_for(lambda: witness.ended(accepted) >= 0.7 * JOBS and killer.all_were_killed, "most of the jobs")
    killer.revive_all()
    print(f"peace after {time.monotonic() - began:.0f} s, {witness.ended(accepted)} jobs had ended")
    with witness:
        wait_for(lambda: witness.ended(accepted) == len(set(accepted)), witness.left(accepted))
        time.sleep(1.5 * LEASE_S)  # whoever still holds a job that was given to another writes now
        witness.look()
    verdict(everything, witness, accepted, killer)


def request(number: int, chance: random.Random) -> tuple[str, Body]:
    """The path and body of a job: trainings first, which take longest."""
    photo = coloured_picture(chance.randbytes(3))
    if number < TRAININGS:
        return "/v1/trainings", {
            "model_id": f"subject-{number}",
            "instance_prompt": "a sks ball",
            "photos": [photo],
            "steps": 6,
            "checkpoint_interval": 2,
            "resolution": 64,
        }
    drawing = {
        "prompt": f"a red ball, number {number}",
        "num_images": chance.choice((1, 1, 2)),
        "num_inference_steps": 1,
        "size": 64,
        "seed": number,
    }
    kind = number % 20
    if kind < 12:
        return "/v1/generations", drawing
    if kind == 12:
        steps = [{"kind": "background_removal"}, {"kind": "upscale", "resolution": 2048}]
        return "/v1/generations", {**drawing, "then": steps}
    if kind < 17:
        return "/v1/background-removals", {"images": [photo] * chance.choice((1, 2))}
    return "/v1/upscales", {"image": photo, "engine": chance.choice(("gan", "sd")), "resolution": 2048}


class Client:
    """A client that does not give up: it sends the same request with the same key until it is answered."""

    def __init__(self, everything: Everything) -> None:
        self._http = everything.client

    def submit(self, number: int, wanted: tuple[str, Body]) -> str:
        """The id of the job that was made. Some are canceled at once, which may be too late."""
        time.sleep(random.Random(number).uniform(0, 2 * SUBMITTING_S * CLIENTS / JOBS))
        path, body = wanted
        headers = {"Idempotency-Key": f"job-{number}"}
        if number % 7 == 0:
            headers["Prefer"] = "wait=5"  # drawn at once, by main-api itself
        answer = self._insist(path, body, headers)
        assert answer.status_code in (200, 201, 202), answer.text
        job_id = str(answer.json()["id"])
        if number % 25 == 24:
            canceled = self._insist(f"/v1/jobs/{job_id}/cancel", {}, {})
            assert canceled.status_code in (200, 202), canceled.text
        return job_id

    def _insist(self, path: str, body: Body, headers: dict[str, str]) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self._http.post(path, json=body, headers=headers)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
                # Nothing but "not now" may be said, whatever is away.
                assert answer.status_code in (429, 503), answer.text
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"POST {path} is not taken"
            time.sleep(0.3)


class Killer:
    """Kills one server or two at a time, all in turn in an order of chance, and starts them again."""

    def __init__(self, everything: Everything, chance: random.Random) -> None:
        self.killed: Counter[str] = Counter()
        self._everything = everything
        self._chance = chance
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="killer")

    @property
    def all_were_killed(self) -> bool:
        """Whether each server was, twice."""
        if self._failure is not None:
            raise self._failure
        return all(self.killed[server.name] >= 2 for server in self._everything.victims)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            waiting: list[Server] = []
            while not self._over.wait(self._chance.uniform(0.5, 2.0)):
                if len(waiting) < 2:
                    # What everything hangs on comes twice as often.
                    order = [*self._everything.victims, self._everything.mongo, self._everything.main_api]
                    self._chance.shuffle(order)
                    waiting += order
                self._kill({waiting.pop(0) for _ in range(self._chance.choice((1, 1, 2)))})
        except BaseException as error:
            self._failure = error

    def _kill(self, victims: set[Server]) -> None:
        for server in victims:
            server.kill()
            self.killed[server.name] += 1
        time.sleep(self._chance.uniform(0.1, 1.0))
        self._revive(victims)

    def _revive(self, servers: set[Server]) -> None:
        for server in self._everything.victims:
            if server in servers:
                self._everything.revive(server)

    def revive_all(self) -> None:
        """Whatever the last round left dead."""
        self._revive({server for server in self._everything.victims if server.process is None})
        assert self._failure is None, self._failure


class Witness:
    """Reads the records beside main-api, and remembers how each job ended when it was first seen ended."""

    def __init__(self, mongo: MongoStandIn) -> None:
        self.jobs: dict[str, Body] = {}
        self.first: dict[str, Body] = {}
        self.changed: set[str] = set()
        self._url = mongo.url
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Witness:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="witness")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(1.0):
            try:
                self.look()
            except PyMongoError:
                continue  # it is being killed

    def look(self) -> None:
        wait_ms = {"serverSelectionTimeoutMS": 1000, "socketTimeoutMS": 10_000}
        with MongoClient[Body](self._url, **wait_ms) as client:  # type: ignore[arg-type]
            found = {one["_id"]: one for one in client["enlight"]["jobs"].find({"tenant": TENANT})}
        for job_id, job in found.items():
            if job["status"] not in TERMINAL:
                if job_id in self.first:
                    self.changed.add(job_id)
                continue
            if result(self.first.setdefault(job_id, job)) != result(job):
                self.changed.add(job_id)
        self.jobs = found

    def ended(self, job_ids: list[str]) -> int:
        return len(self.first.keys() & set(job_ids))

    def left(self, job_ids: list[str]) -> str:
        names = ("kind", "status", "attempts", "worker", "logs")
        left = [self.jobs.get(one, {}) for one in job_ids if one not in self.first]
        return f"the end of {[{name: job.get(name) for name in names} for job in left][:5]}"


def result(job: Body) -> tuple[Any, ...]:
    """What must not change any more once a job has ended."""
    pictures = sorted((one["index"], one["key"], one["sha256"]) for one in job["pictures"])
    model = (job.get("output") or {}).get("model")
    return job["status"], job["completed_at"], job["fencing"], pictures, model, job["error"]


def wait_for(condition: Any, reason: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {reason}"
        time.sleep(0.3)


def verdict(everything: Everything, witness: Witness, accepted: list[str], killer: Killer) -> None:
    jobs = [witness.jobs[job_id] for job_id in set(accepted) if job_id in witness.jobs]
    ends = Counter(job["status"] for job in jobs)
    lost = [job_id for job_id in set(accepted) if witness.jobs.get(job_id, {}).get("status") not in TERMINAL]
    doubled = sorted(
        {*twice_made(witness, accepted), *witness.changed, *with_two_results(everything, witness)}
    )
    attempts = Counter(job["attempts"] for job in jobs)
    print(
        f"submitted {len(accepted)}, succeeded {ends['succeeded']}, failed {ends['failed']},"
        f" canceled {ends['canceled']}, lost {len(lost)}, doubled {len(doubled)}"
    )
    print(f"kinds {dict(Counter(job['kind'] for job in jobs))}, attempts {dict(sorted(attempts.items()))}")
    print(f"killed {dict(killer.killed)}")
    reasons = Counter(str(job["error"]) for job in jobs if job["status"] == "failed")
    print(f"failed because {dict(reasons)}" if reasons else "none failed")
    assert (lost, doubled) == ([], [])
    assert len(accepted) == len(set(accepted)) == JOBS
    # A job may fail because its holder was killed each time, and for no other reason.
    assert all("attempts" in reason for reason in reasons)
    assert ends["succeeded"] > 0.8 * JOBS
    assert {job["kind"] for job in jobs if job["status"] == "succeeded"} == {
        "training", "generation", "background_removal", "upscale", "chain",
    }  # fmt: skip
    real = [job for job in jobs if "DPM" in str((job["output"] or {}).get("settings"))]
    assert real, "the real instance drew nothing"
    assert everything.quick.drawn


def twice_made(witness: Witness, accepted: list[str]) -> set[str]:
    """Jobs that nobody was told of: the same request made twice; and steps that a chain has twice."""
    roots = {job_id for job_id, job in witness.jobs.items() if not job.get("parent")}
    steps = Counter((job["parent"], job["step"]) for job in witness.jobs.values() if job.get("parent"))
    return (roots - set(accepted)) | {
        f"{parent}/{step}" for (parent, step), count in steps.items() if count > 1
    }


def with_two_results(everything: Everything, witness: Witness) -> set[str]:
    """Succeeded jobs whose pictures are not those of one claim, each once and as they are in the store."""
    service = everything.main_api.service()
    odd = set()
    for job_id, job in witness.jobs.items():
        if job["status"] != "succeeded":
            continue
        pictures = sorted(job["pictures"], key=lambda one: one["index"])
        if [one["index"] for one in pictures] != list(range(wanted_pictures(job))):
            odd.add(job_id)
        for one in pictures:
            data = service.pictures.read(one["key"], 10_000_000)
            if hashlib.sha256(data).hexdigest() != one["sha256"]:
                odd.add(job_id)
        if job["kind"] == "training":
            model = service.records.models.get(TENANT, job["input"]["model_id"])
            versions = [one["version"] for one in model["versions"]] if model else []
            if versions != [job["output"]["model"]["version"]]:
                odd.add(job_id)
    service.database.close()
    return odd


def wanted_pictures(job: Body) -> int:
    match job["kind"]:
        case "training":
            return 0
        case "generation" | "chain":
            return int(job["input"]["num_images"])
        case _:
            return len(job["files"]["images"])
