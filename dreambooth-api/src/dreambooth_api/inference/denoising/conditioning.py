"""What the UNet is told of a picture beside its latents: prompts as embeddings, kept by prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Prompts kept, in bytes on the device: some 500 of SD 1.5 in half precision, 200 of SDXL.
MAX_TEXT_BYTES = 64 * 10**6


@dataclass(frozen=True)
class Text:
    """An encoded prompt: *embeddings* (1, tokens, width), SDXL's *pooled* (1, width), and what was *cut_off*
    because it did not fit.
    """

    embeddings: Tensor
    pooled: Tensor | None
    cut_off: str | None

    @property
    def bytes(self) -> int:
        """What it takes of the device's memory."""
        return sum(
            part.numel() * part.element_size() for part in (self.embeddings, self.pooled) if part is not None
        )


@dataclass(frozen=True, eq=False)
class Conditioning:
    """A picture's own: its prompt, what it shall not show (None without guidance), and SDXL's time ids,
    (6,): height and width, the crop's corner, height and width again.
    """

    prompt: Text
    negative: Text | None
    time_ids: Tensor | None

    @property
    def texts(self) -> tuple[Text, ...]:
        """One for each row of the UNet's batch, the negative prompt first."""
        return (self.prompt,) if self.negative is None else (self.negative, self.prompt)

    @property
    def rows(self) -> int:
        """Rows of the UNet's batch that the picture takes."""
        return len(self.texts)

    @property
    def tensors(self) -> list[Tensor]:
        """All of it that lies on the device."""
        parts = [part for text in self.texts for part in (text.embeddings, text.pooled)]
        return [part for part in (*parts, self.time_ids) if part is not None]


class TextCache:
    """Encoded prompts, those longest not used leave first. For one thread."""

    def __init__(self, max_bytes: int = MAX_TEXT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._texts: OrderedDict[Hashable, Text] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, encode: Callable[[], Text]) -> Text:
        """The text of *key*: the prompt, and whatever else *encode* depends on."""
        found = self._texts.get(key)
        if found is not None:
            self._texts.move_to_end(key)
            return found
        text = encode()
        self._texts[key] = text
        self._bytes += text.bytes
        while self._bytes > self._max_bytes and len(self._texts) > 1:
            _, oldest = self._texts.popitem(last=False)
            self._bytes -= oldest.bytes
        return text


def time_ids(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """SDXL's, (6,), of a picture that is neither scaled nor cropped; sides in pixels."""
    return torch.tensor([height, width, 0, 0, height, width], dtype=dtype, device=device)
