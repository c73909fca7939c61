"""A part of a network, run by OpenVINO on the CPU where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from typing import Any

import torch
from enlight_common.queue import Canceled, Stop

log = logging.getLogger(__name__)

_LOOK_MS = 100
_TRACED_SIDE = 16
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
#: Of the shapes that were computed before, kept with what was prepared for them: a picture has a few.
_SHAPES_KEPT = 2000  # layers of them


def available() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoPart:
    """Takes and gives (1, channels, height, width) in float32 on the CPU; bfloat16 inside where asked for.

    Only for networks of plain convolutions: what PyTorch decides by the size of a picture would be fixed.
    """

    def __init__(self, module: torch.nn.Module, channels: int, precision: torch.dtype) -> None:
        import openvino

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the tracer, about Python that it cannot see
            # Checked by the tests against the network itself; the tracer's own check takes seconds.
            traced = torch.jit.trace(
                module, torch.rand(1, channels, _TRACED_SIDE, _TRACED_SIDE), check_trace=False
            )
            network = openvino.convert_model(traced, input=[openvino.PartialShape([1, channels, -1, -1])])
        self._network = network
        self._settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "NUM_STREAMS": 1}
        if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
            self._settings["INFERENCE_NUM_THREADS"] = int(threads)
        self._core = openvino.Core()
        with contextlib.suppress(RuntimeError):
            self._core.set_property("CPU", {"CPU_RUNTIME_CACHE_CAPACITY": _SHAPES_KEPT})
        self._request: Any = self._compiled()

    def _compiled(self) -> Any:
        return self._core.compile_model(self._network, "CPU", self._settings).create_infer_request()

    def __call__(self, window: torch.Tensor, stop: Stop) -> torch.Tensor:
        """The output for *window*. Raises Canceled within about 0.1 s of *stop* saying so."""
        if self._request is None:
            self._request = self._compiled()
        try:
            return self._computed(window, stop)
        except BaseException:
            # What is broken off has layers of two shapes, its own and the one's before, and gives errors or
            # another shape's output from then on, a new request as well: seconds to compile.
            self._request = None
            raise

    def _computed(self, window: torch.Tensor, stop: Stop) -> torch.Tensor:
        self._request.start_async({0: window.float().contiguous().numpy()}, share_inputs=True)
        while not self._request.wait_for(_LOOK_MS):
            if stop():
                self._request.cancel()
                with contextlib.suppress(RuntimeError):
                    self._request.wait()
                raise Canceled
        # The request's own memory is written again by the next.
        return torch.from_numpy(self._request.get_output_tensor().data.copy())
