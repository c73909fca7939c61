"""Faces restored by GFPGAN, where its weights are there, and laid back into the enlarged picture.

A face is found with its eyes, nose and corners of the mouth, turned and scaled to where GFPGAN was trained
to have them, restored, and laid back with a soft edge.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from enlight_common.errors import InvalidField
from enlight_common.fetching import Fetches
from enlight_common.queue import Stop
from PIL import Image, ImageFilter
from spandrel import ImageModelDescriptor, ModelLoader

from realesrgan_service.models.loading import read_weights
from realesrgan_service.models.obtaining import obtain
from realesrgan_service.models.published import FACE_DETECTOR, FACE_RESTORER
from realesrgan_service.upscaling.torch_part import TorchPart

_FIELD = "face_enhance"
_SIDE = 512
_CONFIDENCE = 0.6
_MOST_FACES = 32
_DETECTION_SIDE = 1280  # pixels: larger pictures are searched in small
_SOFT = 24  # pixels of the 512 that the edge is soft

Points = npt.NDArray[np.floating]

#: Where GFPGAN has the eyes, the nose and the corners of the mouth in 512×512 pixels (facexlib's template).
TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.19360],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)


class Faces:
    """Finds and restores faces. `fetch` may be called from any thread, the rest from one."""

    def __init__(self, weights_dir: Path, device: str, fetches: Fetches | None) -> None:
        """*fetches* is for weights that are not there; where it is None, nothing is fetched."""
        self._folder = weights_dir
        self._device = device
        self._fetches = fetches
        self._restorer: TorchPart | None = None

    def fetch(self, stop: Stop) -> None:
        """Have the weights in their folder.

        Raises:
            InvalidField: they are not and could not be fetched, or OpenCV is not installed.
            BeingFetched: that takes longer than a request waits.
            Canceled: *stop* said so.
        """
        if not _opencv_is_here():
            raise InvalidField(
                _FIELD,
                "needs OpenCV to find faces, which is not installed here, and the weights "
                f"{FACE_RESTORER.file} and {FACE_DETECTOR.file}",
            )
        for weight in (FACE_RESTORER, FACE_DETECTOR):
            if not (self._folder / weight.file).is_file():
                obtain(weight, self._folder, self._fetches, _FIELD, stop)

    def load(self) -> None:
        """Have the restorer in memory, once `fetch` was done. Raises InvalidField where it is another's."""
        if self._restorer is None:
            model = ModelLoader("cpu").load_from_state_dict(
                read_weights(self._folder / FACE_RESTORER.file, _FIELD)
            )
            if not isinstance(model, ImageModelDescriptor) or model.purpose != "FaceSR":
                raise InvalidField(_FIELD, f"needs {FACE_RESTORER.file} to be GFPGAN's weights")
            module = _Restorer(model)
            self._restorer = TorchPart(module, torch.device(self._device), torch.float32, half_weights=False)

    def enhance(self, source: Image.Image, enlarged: Image.Image, stop: Stop) -> int:
        """Restore the faces of *source* in *enlarged*, the same picture larger; how many there were."""
        assert self._restorer is not None
        faces = self._find(source)
        for landmarks in faces:
            to_template = similarity(landmarks, TEMPLATE)
            face = _warped(source.convert("RGB"), np.linalg.inv(to_template), (_SIDE, _SIDE))
            pixels = torch.from_numpy(np.asarray(face, np.float32).transpose(2, 0, 1).copy() / 127.5 - 1)[
                None
            ]
            restored = ((self._restorer(pixels, stop)[0].float().cpu() + 1) * 127.5).clamp(0, 255)
            image = Image.fromarray(restored.permute(1, 2, 0).numpy().round().astype(np.uint8))
            lay_back(image, to_template, enlarged, enlarged.width / source.width)
        return len(faces)

    def _find(self, image: Image.Image) -> list[Points]:
        import cv2

        shrink = min(1.0, _DETECTION_SIDE / max(image.size))
        size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))[..., ::-1]
        detector = cv2.FaceDetectorYN.create(
            str(self._folder / FACE_DETECTOR.file), "", size, score_threshold=_CONFIDENCE
        )
        _, found = detector.detect(np.ascontiguousarray(pixels))
        rows: list[Any] = [] if found is None else list(found[:_MOST_FACES])
        # Each row: the box, five points as x and y (the eye on the left of the picture first), the score.
        return [np.asarray(row[4:14], np.float64).reshape(5, 2) / shrink for row in rows]


def _opencv_is_here() -> bool:
    return importlib.util.find_spec("cv2") is not None


class _Restorer(torch.nn.Module):
    def __init__(self, model: ImageModelDescriptor[torch.nn.Module]) -> None:
        super().__init__()
        self.network = model.model

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        output = self.network(face)
        restored: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return restored


def similarity(source: Points, target: Points) -> Points:
    """The 3×3 matrix that turns, scales and shifts *source* (n, 2) onto *target* with the least squares.

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_centred, target_centred = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(target_centred.T @ source_centred / len(source))
    mirror = np.diag([1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = u @ mirror @ vt
    scale = float((singular * np.diag(mirror)).sum() / source_centred.var(axis=0).sum())
    matrix = np.eye(3)
    matrix[:2, :2] = scale * rotation
    matrix[:2, 2] = target_mean - scale * rotation @ source_mean
    return matrix


def lay_back(face: Image.Image, to_template: Points, enlarged: Image.Image, times: float) -> None:
    """Lay a restored *face* over *enlarged*, which is *times* the picture that `to_template` maps from."""
    to_enlarged = np.diag([times, times, 1.0]) @ np.linalg.inv(to_template)
    corners = to_enlarged @ np.array([[0, _SIDE, _SIDE, 0], [0, 0, _SIDE, _SIDE], [1, 1, 1, 1]], float)
    left, top = (max(0, int(np.floor(corners[axis].min()))) for axis in (0, 1))
    right = min(enlarged.width, int(np.ceil(corners[0].max())))
    bottom = min(enlarged.height, int(np.ceil(corners[1].max())))
    if right <= left or bottom <= top:
        return
    shift = np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
    from_box = np.linalg.inv(to_enlarged) @ shift
    inner = Image.new("L", (_SIDE - 2 * _SOFT,) * 2, 255)
    mask = Image.new("L", (_SIDE, _SIDE))
    mask.paste(inner, (_SOFT, _SOFT))
    mask = mask.filter(ImageFilter.GaussianBlur(_SOFT / 3))
    size = (right - left, bottom - top)
    enlarged.paste(_warped(face, from_box, size), (left, top), _warped(mask, from_box, size))


def _warped(image: Image.Image, matrix: Points, size: tuple[int, int]) -> Image.Image:
    """A picture of *size* whose pixel at (x, y) is that of *image* at *matrix* (x, y, 1)."""
    coefficients = tuple(float(value) for value in matrix[:2].ravel())
    return image.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
