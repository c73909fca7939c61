"""A RabbitMQ of a test's own, where it is installed: its own node, ports, folders and port mapper."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pika
import pytest
from main_api_servers import WITHIN_S, Server, free_port
from waiting import until

_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class RabbitmqServer(Server):
    """Skips the test where there is none, unless REQUIRE_RABBITMQ is set."""

    def __init__(self, folder: Path) -> None:
        if not Path(_PROGRAM).exists():
            if os.environ.get("REQUIRE_RABBITMQ"):
                pytest.fail("rabbitmq-server is not installed, and REQUIRE_RABBITMQ is set")
            pytest.skip("rabbitmq-server is not installed (Debian: apt-get install rabbitmq-server)")
        super().__init__(folder, "rabbitmq")
        self.distribution_port = free_port()
        self.mapper_port = free_port()
        self.mapper: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [_PROGRAM]

    def environment(self) -> Mapping[str, str]:
        folder = self.folder
        (folder / "advanced.config").touch()
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text("loopback_users = none\n")
        return {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -start_epmd false",
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        self._start_mapper()
        super().start()
        until(self._answers, "RabbitMQ answers")

    def _start_mapper(self) -> None:
        """In the foreground: Erlang would start one that outlives everything."""
        if self.mapper is None:
            program = shutil.which("epmd") or "epmd"
            self.mapper = subprocess.Popen(
                [program, "-port", str(self.mapper_port), "-address", "127.0.0.1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )
            until(self._mapper_answers, "epmd answers")

    def _mapper_answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.mapper_port)) == 0

    def _answers(self) -> bool:
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except pika.exceptions.AMQPError:
            return False
        return True

    def kill(self) -> None:
        super().kill()
        if self.mapper is not None:
            self.mapper.kill()
            self.mapper.wait(WITHIN_S)
            self.mapper = None
