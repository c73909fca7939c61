"""What networks run in: TensorRT or CUDA on a GPU, OpenVINO or plain ONNX Runtime on the CPU.

A network here is what rembg's session classes expect of ONNX Runtime: `run` and `get_inputs`.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from enlight_common.errors import InvalidField
from enlight_common.settings import SettingsError

log = logging.getLogger(__name__)

RuntimeName = Literal["tensorrt", "cuda", "openvino", "onnxruntime"]
Precision = Literal["fp32", "bf16", "fp16"]
Wanted = Literal["auto", "fp32", "bf16", "fp16"]
Array = np.ndarray[Any, np.dtype[Any]]

_CPUINFO = Path("/proc/cpuinfo")
#: Models whose masks in bf16 are tried, and computed again where `certainty` tells that they may be wrong. Of
#: u2netp's more than half would be.
_TRIED_IN_BF16 = frozenset({"u2net"})
#: Networks of several inputs of changing shapes, for which OpenVINO is given no model of one output.
_ONNX_ONLY = frozenset({"sam"})


class Network(Protocol):
    """A loaded network. `run` takes arrays by input name and gives all outputs that rembg looks at."""

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Array]) -> list[Array]: ...

    def get_inputs(self) -> list[Any]: ...


@dataclass(frozen=True)
class Runtime:
    """A runtime on a device, and the precisions it can be asked for, the fastest first."""

    name: RuntimeName
    device: str
    precisions: tuple[Precision, ...]
    threads: int | None = None

    def tried(self, model: str, wanted: Wanted, field: str = "precision") -> tuple[Precision, ...]:
        """The precisions in which a mask is computed, each where the one before gave an unsure one.

        *wanted* is one, or "auto": the fastest that is right. Raises InvalidField where there is no such.
        """
        if wanted != "auto":
            if wanted not in self.precisions:
                raise InvalidField(field, f"must be auto or, for this model, {', '.join(self.precisions)}")
            return (wanted,)
        fastest = self.precisions[0]
        if fastest != "bf16":
            return (fastest,)
        return ("bf16", "fp32") if model in _TRIED_IN_BF16 else ("fp32",)

    def open(self, path: Path, precision: Precision, cache_dir: Path) -> Network:
        """Load the network in the file *path*; *cache_dir* is where TensorRT keeps what it compiled."""
        if self.name == "openvino":
            return OpenVinoNetwork(path, precision, self.threads)
        return OrtNetwork(path, self, precision, cache_dir)


def find_runtimes(device: str, *, threads: int | None = None) -> list[Runtime]:
    """What is there for *device*, "cpu" or "cuda:N": the fastest first, plain ONNX Runtime on the CPU last.

    That a library is installed does not mean that it works: where loading a network fails, the next is tried.
    """
    onnx = Runtime("onnxruntime", "cpu", ("fp32",), threads)
    return [*(_openvino(threads) if device == "cpu" else _on_gpu(device)), onnx]


def runtimes_for(model: str, runtimes: list[Runtime]) -> list[Runtime]:
    """Those of *runtimes* in which the model can be run at all."""
    return [one for one in runtimes if one.name != "openvino" or model not in _ONNX_ONLY]


def check_device(device: str) -> None:
    """Raise SettingsError unless the installed ONNX Runtime was built for *device*."""
    if device != "cpu" and not _on_gpu(device):
        raise SettingsError(f"DEVICE: {device} needs ONNX Runtime with CUDA: install the extra gpu")


def _openvino(threads: int | None) -> list[Runtime]:
    try:
        import openvino
    except ImportError:
        return []
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        return [Runtime("openvino", "cpu", ("fp32",), threads)]
    # AVX-512 has bf16 instructions as well, with which u2net takes 1.6 times the processor time of fp32: it
    # goes into converting. Only the tiles of AMX pay.
    return [Runtime("openvino", "cpu", ("bf16", "fp32") if _has_amx() else ("fp32", "bf16"), threads)]


def _has_amx() -> bool:
    try:
        return "amx_bf16" in _CPUINFO.read_text()
    except OSError:
        return False


def _on_gpu(device: str) -> list[Runtime]:
    import onnxruntime

    # ONNX Runtime lists a provider even where the libraries it is made from are not installed.
    available = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        return []
    if hasattr(onnxruntime, "preload_dlls"):
        # Those of the nvidia wheels, which no search path leads to. What it cannot find it prints.
        onnxruntime.preload_dlls(directory="")
    found = [Runtime("cuda", device, ("fp32",))]
    if "TensorrtExecutionProvider" in available and _loadable("libnvinfer.so.10"):
        found.insert(0, Runtime("tensorrt", device, ("fp16", "fp32")))
    return found


def _loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        log.info("TensorRT is left out: %s", error)
        return False
    return True


class OrtNetwork:
    """ONNX Runtime, on whatever device."""

    def __init__(self, path: Path, runtime: Runtime, precision: Precision, cache_dir: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if runtime.threads is not None:
            options.intra_op_num_threads = runtime.threads
        providers = _providers(runtime, precision, cache_dir)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        wanted = providers[0][0]
        if wanted not in self._session.get_providers():
            raise RuntimeError(f"{wanted} was not taken by ONNX Runtime; its own messages are in the log")
        self._first_output = [self._session.get_outputs()[0].name]

    def get_inputs(self) -> list[Any]:
        """ONNX Runtime's descriptions of the inputs."""
        return cast(list[Any], self._session.get_inputs())

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Array]) -> list[Array]:
        """The first output; the others of U²-Net are for its training. SAM takes all of its decoder's."""
        several = len(self.get_inputs()) > 1
        return cast(list[Array], self._session.run(None if several else self._first_output, dict(inputs)))


def _providers(runtime: Runtime, precision: Precision, cache_dir: Path) -> list[tuple[str, dict[str, Any]]]:
    cpu: tuple[str, dict[str, Any]] = ("CPUExecutionProvider", {})
    if runtime.name == "onnxruntime":
        return [cpu]
    number = int(runtime.device.partition(":")[2] or 0)
    # TF32 has bf16's exponent and fp16's mantissa: not what fp32 asks for.
    cuda: tuple[str, dict[str, Any]] = ("CUDAExecutionProvider", {"device_id": number, "use_tf32": 0})
    if runtime.name == "cuda":
        return [cuda, cpu]
    cache_dir.mkdir(parents=True, exist_ok=True)
    options = {
        "device_id": number,
        "trt_fp16_enable": precision == "fp16",
        "trt_engine_cache_enable": True,  # building an engine takes minutes
        "trt_engine_cache_path": str(cache_dir),
    }
    return [("TensorrtExecutionProvider", options), cuda, cpu]


@dataclass(frozen=True)
class _Input:
    name: str


class OpenVinoNetwork:
    """OpenVINO on the CPU. One thread at a time may `run` it."""

    def __init__(self, path: Path, precision: Precision, threads: int | None) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        # The other outputs of U²-Net are for its training: upsampled for nothing.
        model = openvino.Model([model.output(0)], model.get_parameters())
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        }
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        compiled = core.compile_model(model, "CPU", properties)
        self._inputs = [_Input(one.get_any_name()) for one in compiled.inputs]
        self._request = compiled.create_infer_request()

    def get_inputs(self) -> list[Any]:
        """The inputs, each with its `name`."""
        return list(self._inputs)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Array]) -> list[Array]:
        """The first output, a copy."""
        return [np.array(self._request.infer(dict(inputs), share_inputs=True)[0])]
