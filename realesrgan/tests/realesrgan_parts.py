"""What the tests of this package share: photographs, the weights, and requests."""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from picture_parts import in_base64
from PIL import Image, ImageDraw
from running_process import WITHIN_S
from skimage import data

WEIGHTS = Path(os.environ.get("WEIGHTS_DIR") or Path(__file__).parents[2] / "data" / "weights")
FAST = "realesr-animevideov3"


def photo(width: int, height: int | None = None) -> Image.Image:
    """A part of a photograph that scikit-image carries: a face's edge, cloth, a flag."""
    return Image.fromarray(data.astronaut()[40 : 40 + (height or width), 170 : 170 + width])


def disc(color: tuple[int, int, int], side: int = 200) -> Image.Image:
    """A disc, soft at its border, on transparent black."""
    mask = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(mask).ellipse((side, side, 3 * side, 3 * side), fill=255)
    image = Image.new("RGBA", (side, side), (*color, 0))
    image.putalpha(mask.resize((side, side), Image.Resampling.BOX))
    black = Image.new("RGBA", image.size)
    visible = image.getchannel("A").point(lambda alpha: 255 if alpha else 0)
    return Image.composite(image, black, visible)


def as_window(image: Image.Image) -> npt.NDArray[np.float32]:
    """(3, height, width) between 0 and 1."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255)


def request(image: Image.Image, **fields: Any) -> dict[str, Any]:
    """A body with the fast network and the smallest size."""
    return {"input_string": in_base64(image), "model_name": FAST, "out_resolution": 1025, **fields}


class HangingServer:
    """Serves the byte "x" under every path; under the names in `hangs` only once it is released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hangs: set[str] = set()
        self._released = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                outer.asked.append(name)
                if name in outer.hangs:
                    outer._released.wait(WITHIN_S)
                self.send_response(200)
                self.send_header("Content-Length", "1")
                self.end_headers()
                self.wfile.write(b"x")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def release(self) -> None:
        self._released.set()

    @contextlib.contextmanager
    def released_at_the_end(self) -> Iterator[None]:
        """Whatever the test does, nobody waits for the server longer."""
        try:
            yield
        finally:
            self.release()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
