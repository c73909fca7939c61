"""Models from a hub, played by a server of the same few addresses: checked, whole or not at all, once."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import RevisionNotFoundError
from upsampler.models import resolve_upscaler
from upsampler.swin2sr import Swin2SREngine
from upsampler_parts import save_swin2sr

from upsampler import hub

NAME = "caidas/swin2SR-lightweight-x2-64"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Has one repository, the files of a folder. `spoilt` are sent with another last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spoilt: set[str] = set()
        self.sent: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(whole=False)

            def do_GET(self) -> None:
                self._answer(whole=True)

            def _answer(self, *, whole: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                resolve = f"/{NAME}/resolve/{COMMIT}/"
                headers = {"X-Repo-Commit": COMMIT}
                if path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/{COMMIT}"):
                    data, headers["Content-Type"] = json.dumps(outer.info()).encode(), "application/json"
                elif path.startswith(resolve) and (outer.folder / path.removeprefix(resolve)).is_file():
                    name = path.removeprefix(resolve)
                    data = (outer.folder / name).read_bytes()
                    headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
                    if name in outer.spoilt:
                        data = data[:-1] + bytes([data[-1] ^ 1])
                    if whole:
                        outer.sent.append(name)
                else:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RevisionNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if whole:
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def info(self) -> dict[str, object]:
        """As the hub answers `?blobs=true`."""
        siblings: list[dict[str, object]] = []
        for path in sorted(self.folder.rglob("*")):
            data = path.read_bytes()
            told: dict[str, object] = {"rfilename": path.name, "size": len(data)}
            told["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if path.suffix in (".safetensors", ".bin"):
                digest = hashlib.sha256(data).hexdigest()
                told["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 134}
            siblings.append(told)
        return {"id": NAME, "sha": COMMIT, "siblings": siblings}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = save_swin2sr(tmp_path / "repository", factor=2)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    hub_ = Hub(folder)
    yield hub_
    hub_.close()


def test_a_model_is_fetched_once_checked_and_then_needs_no_hub(served: Hub, tmp_path: Path) -> None:
    upscaler = resolve_upscaler(NAME, tmp_path)
    with ThreadPoolExecutor() as pool:
        fetched = [pool.submit(hub.fetch, upscaler, tmp_path / "hub", endpoint=served.url) for _ in range(3)]
        (folder,) = {each.result() for each in fetched}
    assert sorted(served.sent) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert hub.revision_of(folder) == folder.name == COMMIT
    assert Swin2SREngine(upscaler, folder, "cpu").factor == 2
    served.close()
    assert hub.fetch(upscaler, tmp_path / "hub", endpoint=served.url) == folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_what_the_hub_says_is_refused_and_fetched_again(
    served: Hub, tmp_path: Path, name: str
) -> None:
    upscaler = resolve_upscaler(NAME, tmp_path)
    served.spoilt.add(name)
    with pytest.raises(hub.Unverifiable, match=name):
        hub.fetch(upscaler, tmp_path / "hub", endpoint=served.url)
    assert hub.fetched(upscaler, tmp_path / "hub") is None
    served.spoilt.clear()
    folder = hub.fetch(upscaler, tmp_path / "hub", endpoint=served.url)
    assert (folder / name).read_bytes() == (served.folder / name).read_bytes()


def test_a_folder_whose_download_was_cut_off_is_not_used(served: Hub, tmp_path: Path) -> None:
    upscaler = resolve_upscaler(NAME, tmp_path)
    folder = hub.fetch(upscaler, tmp_path / "hub", endpoint=served.url)
    (folder / hub.MARKER).unlink()
    shutil.copyfile(folder / "config.json", folder / "model.safetensors")
    assert hub.fetched(upscaler, tmp_path / "hub") is None
    served.sent.clear()
    assert hub.fetch(upscaler, tmp_path / "hub", endpoint=served.url) == folder
    assert served.sent == ["model.safetensors"], "what is sound is not fetched again"


def test_of_a_model_with_a_known_commit_no_other_is_used(served: Hub, tmp_path: Path) -> None:
    upscaler = resolve_upscaler(NAME, tmp_path)
    folder = hub.fetch(upscaler, tmp_path / "hub", endpoint=served.url)
    assert hub.fetched(replace(upscaler, revision=COMMIT), tmp_path / "hub") == folder
    other = replace(upscaler, revision=COMMIT[::-1])
    assert hub.fetched(other, tmp_path / "hub") is None
    with pytest.raises(RevisionNotFoundError):
        hub.fetch(other, tmp_path / "hub", endpoint=served.url)


def test_of_a_pipeline_the_variant_of_each_part_is_taken_and_nothing_that_unpickles(tmp_path: Path) -> None:
    names = [
        ".gitattributes",
        "README.md",
        "model_index.json",
        "x4-upscaler-ema.ckpt",
        "x4-upscaler-ema.safetensors",
        "low_res_scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    upscaler = resolve_upscaler("stabilityai/stable-diffusion-x4-upscaler", tmp_path)
    files = [hub.HubFile(name, size=1, sha256="0" * 64, git_sha1=None) for name in names]
    assert {file.name for file in hub.wanted(files, upscaler)} == {
        "model_index.json",
        "low_res_scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
