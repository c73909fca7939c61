"""Where a face is cut out and laid back; GFPGAN's weights themselves are not needed for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from enlight_common.errors import InvalidField
from enlight_common.fetching import Fetches
from flask.testing import FlaskClient
from PIL import Image
from realesrgan_parts import WEIGHTS, HangingServer, photo, request
from realesrgan_service.app import create_app
from realesrgan_service.models.published import FACE_RESTORER
from realesrgan_service.service import Service
from realesrgan_service.upscaling import faces as faces_module
from realesrgan_service.upscaling.faces import TEMPLATE, Faces, _warped, lay_back, similarity
from running_process import until


def turned(
    points: np.ndarray[tuple[int, ...], np.dtype[np.floating]], degrees: float, scale: float
) -> object:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ matrix.T + (31, 17)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (30, 0.5), (-100, 3)])
def test_a_turned_and_scaled_face_is_brought_to_the_template(degrees: float, scale: float) -> None:
    landmarks = np.asarray(turned(TEMPLATE, degrees, scale))
    matrix = similarity(landmarks, TEMPLATE)
    assert np.allclose(landmarks @ matrix[:2, :2].T + matrix[:2, 2], TEMPLATE)


def test_a_face_that_was_not_changed_leaves_the_picture_as_it_was() -> None:
    source = photo(300)
    landmarks = np.asarray(turned(TEMPLATE, 12, 0.3))
    matrix = similarity(landmarks, TEMPLATE)
    enlarged = source.resize((900, 900), Image.Resampling.BICUBIC)
    before = np.asarray(enlarged, int)
    lay_back(_warped(source, np.linalg.inv(matrix), (512, 512)), matrix, enlarged, 3.0)
    change = np.abs(np.asarray(enlarged, int) - before)
    assert change.mean() < 1
    white = source.resize((900, 900))
    lay_back(Image.new("RGB", (512, 512), "white"), matrix, white, 3.0)
    x, y = (landmarks[2] * 3).astype(int)
    assert white.getpixel((int(x), int(y))) == (255, 255, 255), "the nose is in the middle of what was laid"


def test_what_is_missing_is_said() -> None:
    with pytest.raises(InvalidField, match=r"GFPGANv1\.4\.pth"):
        Faces(WEIGHTS / "nowhere", "cpu", None).fetch(lambda: False)


def test_a_download_of_the_faces_weights_holds_up_no_other_picture(
    client: FlaskClient,
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hanging_server: HangingServer,
) -> None:
    # As if OpenCV were there: it is asked for only once the weights are.
    monkeypatch.setattr(faces_module, "_opencv_is_here", lambda: True)
    restorer = replace(FACE_RESTORER, urls=(hanging_server.url("restorer"),), sha256="0" * 64)
    monkeypatch.setattr(faces_module, "FACE_RESTORER", restorer)
    monkeypatch.setattr(service.loaded.get(), "faces", Faces(tmp_path, "cpu", Fetches()))
    hanging_server.hangs.add("restorer")
    with ThreadPoolExecutor() as pool, hanging_server.released_at_the_end():
        body = request(photo(172, 20), face_enhance=True)
        held = pool.submit(create_app(service).test_client().post, "/upsampler", json=body)
        until(lambda: hanging_server.asked == ["restorer"])
        assert client.post("/upsampler", json=request(photo(172, 20))).status_code == 200
        assert not held.done()
        hanging_server.release()
        refused = held.result()
    assert (refused.status_code, refused.get_json()["field"]) == (422, "face_enhance")
    assert "could not be fetched" in refused.get_json()["message"]
