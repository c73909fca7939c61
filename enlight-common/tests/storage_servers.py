"""Real servers for the tests of the stores, started once and when first asked for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from enlight_common.storage import ObjectStore, StorageLimits, UrlSigner, open_object_store
from storage_backends import BUCKET, Backend
from storage_issuer import BASE_PATH, NODE_KEY, SECRET, issuer_app
from storage_proxy import FaultyProxy
from werkzeug.serving import make_server

from conftest import free_port, wait_until


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    """The server, once it takes connections; `log` is what it says meanwhile."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=Path(__file__).parent,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
            except httpx.TransportError:
                return False
            return True

        assert wait_until(answers, 60), log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    port = free_port()
    command = ["-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    command.append(f"--default-bucket={BUCKET}")

    def open_store(limits: StorageLimits, url: str) -> ObjectStore:
        with _environment(STORAGE_EMULATOR_HOST=url):
            return open_object_store(f"gs://{BUCKET}/some/where", limits=limits)

    with _running(command, port, tmp_path_factory.mktemp("google") / "log"):
        yield Backend(
            "google",
            open_store,
            port,
            is_get=lambda method, path: method == "GET" and "alt=media" in path,
            is_put=lambda method, path: method in ("POST", "PUT") and "/upload/" in path,
        )


@pytest.fixture(scope="session")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}

    def open_store(limits: StorageLimits, url: str) -> ObjectStore:
        with _environment(AWS_ENDPOINT_URL_S3=url, **keys):
            return open_object_store(f"s3://{BUCKET}/some/where", limits=limits)

    command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, tmp_path_factory.mktemp("amazon") / "log"):
        with _environment(**keys):
            client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
            client.create_bucket(Bucket=BUCKET)
        yield Backend(
            "amazon",
            open_store,
            port,
            is_get=lambda method, path: method == "GET" and "list-type" not in path,
            is_put=lambda method, path: method == "PUT",
        )


def _open_granted(limits: StorageLimits, url: str) -> ObjectStore:
    return open_object_store(f"enlight+{url}{BASE_PATH}", limits=limits, node_key=NODE_KEY)


def _granted(port: int) -> Backend:
    return Backend(
        "granted",
        _open_granted,
        port,
        is_get=lambda method, path: method == "GET" and "/bytes/" in path,
        is_put=lambda method, path: method == "PUT" and "/bytes/" in path,
    )


@pytest.fixture(scope="session")
def granted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The issuer on gunicorn, with the settings that the services use."""
    port, folder = free_port(), tmp_path_factory.mktemp("issuer")
    command = ["-m", "gunicorn", "-c", "python:storage_issuer", "storage_issuer:served_app()"]
    environment = {
        "ISSUER_PORT": str(port),
        "ISSUER_ROOT": str(folder / "objects"),
        "ISSUER_URL": f"http://127.0.0.1:{port}{BASE_PATH}",
    }
    with _running(command, port, folder / "log", **environment):
        yield _granted(port)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    root = tmp_path_factory.mktemp("folder")
    signer = UrlSigner(SECRET, "https://objects.example/store")
    return Backend("folder", lambda limits, url: open_object_store(f"file://{root}", signer=signer))


@pytest.fixture(scope="session")
def issuer_behind() -> Callable[..., contextlib.AbstractContextManager[Backend]]:
    """A function: an issuer in this process, whose signed URLs lead through a proxy like all else."""
    return _issuer_behind


@contextlib.contextmanager
def _issuer_behind(proxy: FaultyProxy, root: Path, *, url_expires_s: int = 60) -> Iterator[Backend]:
    app = issuer_app(root, proxy.url + BASE_PATH, url_expires_s=url_expires_s)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        proxy.upstream = server.port
        yield _granted(server.port)
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
