"""``enlight/tiny-sd``: a real Stable Diffusion 1.x in small, and what it was made with.

The data flows ``vocabulary`` → ``shapes``/``render`` → ``captions`` → ``pretraining`` → the weights
in ``tiny-sd/`` (the pipeline) and ``tiny-clip/`` (a CLIP over the same pictures, for scores).
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

#: Loadable by ``diffusers.StableDiffusionPipeline.from_pretrained``.
PIPELINE_FOLDER = _HERE / "tiny-sd"
#: Loadable by ``transformers.CLIPModel.from_pretrained``.
CLIP_FOLDER = _HERE / "tiny-clip"
#: Weights of :class:`dreambooth_api.tiny.judge.Judge`.
JUDGE_FILE = _HERE / "judge.safetensors"
#: Five photos of a subject that the base model does not know; see :mod:`dreambooth_api.tiny.subject`.
PHOTOS_FOLDER = _HERE / "photos"
