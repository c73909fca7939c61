"""What is said while something is not loaded, or cannot be."""

from __future__ import annotations

import threading
from types import ModuleType

import pytest
from bgrem.app import create_app
from bgrem.service import Service
from bgrem.settings import ServiceSettings
from bgrem_parts import SMALL, WEIGHTS_DIR, astronaut, weights
from picture_parts import in_base64
from running_process import until

from bgrem import service as service_module

BODY = {"input_image": in_base64(astronaut())}


def test_where_matting_cannot_be_loaded_its_requests_are_told_so_and_the_others_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = threading.Event()

    def damaged() -> ModuleType:
        tried.set()
        raise ImportError("numba is damaged")

    weights()
    monkeypatch.setattr(service_module, "refinements", damaged)
    settings = ServiceSettings(weights_dir=WEIGHTS_DIR, default_model=SMALL, compute_threads=1, threads=16)
    service = Service(settings)
    service.start()
    try:
        client = create_app(service).test_client()
        until(lambda: client.get("/readyz").status_code == 200)
        until(lambda: tried.is_set() and "could not be loaded" in str(service.refinements.ready))
        for option in ("alpha_matting", "post_process_mask"):
            refused = client.post("/remove", json={**BODY, option: True})
            assert refused.status_code == 503
            assert "could not be loaded (ImportError); see the log" in refused.get_json(force=True)["message"]
        assert client.post("/remove", json=BODY).status_code == 200
    finally:
        service.drain(grace_s=5)
