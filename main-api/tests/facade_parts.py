"""A main-api with everything behind it that a façade's call can need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from background_parts import Background, OtherServer, image_service
from main_api_servers import MainApi, MongoStandIn, RedisServer, Server
from waiting import until


class Instance(Server):
    """A dreambooth-api that draws with the embedded base model."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "dreambooth-api")
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "dreambooth_api"]

    def environment(self) -> Mapping[str, str]:
        return {
            "PORT": str(self.port),
            "DATA_DIR": str(self.folder / "data"),
            "DEVICE": "cpu",
            "THREADS": "16",
            "GRACE_S": "1",
            "TRUST_TENANT_HEADER": "true",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def start(self) -> None:
        super().start()
        until(self._is_ready, "the instance is ready")

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False


@dataclass(frozen=True)
class Everything:
    """A main-api whose keyless kept calls are of the tenant `legacy`, an instance, and image services."""

    main_api: MainApi
    services: OtherServer


@contextmanager
def everything(folder: Path, redis: RedisServer) -> Iterator[Everything]:
    with MongoStandIn(folder) as mongo, OtherServer(image_service) as services:
        urls = dict.fromkeys(("BGREM_URL", "UPSAMPLER_URL", "REALESRGAN_URL"), services.url)
        instance = Instance(folder)
        main_api = MainApi(
            folder,
            mongo,
            redis,
            DREAMBOOTH_URL=instance.url,
            LEGACY_TENANT="legacy",
            BROKER_URL=redis.url.replace("/0", "/1"),
            **urls,
        )
        servers: list[Server] = [instance, main_api, Background(folder, main_api)]
        try:
            # Together: the instance takes longer than all the others.
            with ThreadPoolExecutor(len(servers)) as threads:
                list(threads.map(lambda server: server.start(), servers))
            yield Everything(main_api, services)
        finally:
            for server in servers:
                server.kill()
