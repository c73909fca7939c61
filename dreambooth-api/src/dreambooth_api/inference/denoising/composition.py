"""A batch while its pictures stay the same: everything that its steps need, put together once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dreambooth_api.inference.denoising.conditioning import Text
from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.underway import PictureUnderWay
from dreambooth_api.inference.samplers import take_step


def arranged(pictures: Sequence[PictureUnderWay], before: Sequence[PictureUnderWay]) -> list[PictureUnderWay]:
    """*pictures* in an order in which as many as can have the places that they had in the batch *before*:
    what was put together for those need not be again.
    """
    wanted, size = set(pictures), len(pictures)
    places = [picture if picture in wanted else None for picture in [*before, *[None] * size][:size]]
    placed = {picture for picture in places if picture is not None}
    others = (picture for picture in pictures if picture not in placed)
    return [next(others) if picture is None else picture for picture in places]


class Composition:
    """Pictures of one shape that step together, until the first of them is done.

    A picture with guidance has two rows of the UNet's batch, one after the other, the negative prompt's
    first; those without come last, with one row each.
    """

    def __init__(self, pictures: Sequence[PictureUnderWay], device: torch.device, dtype: torch.dtype) -> None:
        self.pictures = sorted(pictures, key=lambda picture: picture.rows == 1)
        self.steps_done = 0
        #: Whose they are, and how many of each.
        self.submissions = Counter(picture.submission for picture in self.pictures)
        #: Steps until one of them is done.
        self.steps = min(picture.steps_left for picture in self.pictures)
        self._guided = sum(picture.rows == 2 for picture in self.pictures)
        self._device, self._dtype = device, dtype
        self._latents = torch.stack([picture.latents for picture in self.pictures])
        self._previous_x0 = torch.stack([picture.previous_x0 for picture in self.pictures])
        self._earlier = self._earlier_outputs()
        self._coefficients = self._table("coefficients")
        scales = self._table("model_scale")
        self._scales = None if bool((scales == 1).all()) else scales[..., None, None, None].to(device)
        # By row instead of by picture.
        rows = [index for index, picture in enumerate(self.pictures) for _ in range(picture.rows)]
        self._timesteps = self._table("timesteps")[:, rows].to(device)
        self._coefficients = self._coefficients.to(device)
        guidance = [picture.guidance_scale for picture in self.pictures[: self._guided]]
        self._guidance = torch.tensor(guidance, device=device)[:, None, None, None]
        self.embeddings = torch.cat([text.embeddings for text in self._texts])
        self._added = self._added_conditions()

    def _table(self, name: str) -> Tensor:
        """A tensor of the pictures' trajectories, (steps, pictures, …), from where each of them is."""
        return torch.stack(
            [
                getattr(picture.trajectory, name)[picture.position : picture.position + self.steps]
                for picture in self.pictures
            ],
            dim=1,
        )

    def _earlier_outputs(self) -> tuple[Tensor, ...]:
        """As far back as any picture needs them, and zeros for those who do not."""
        longest = max(picture.trajectory.earlier_outputs for picture in self.pictures)
        if longest == 0:
            return ()
        none = torch.zeros_like(self._latents[0])
        padded = [[*picture.earlier, *[none] * longest][:longest] for picture in self.pictures]
        return tuple(torch.stack(outputs) for outputs in zip(*padded, strict=True))

    @property
    def _texts(self) -> list[Text]:
        return [text for picture in self.pictures for text in picture.conditioning.texts]

    @property
    def rows(self) -> list[PictureUnderWay]:
        """Whose each row of the UNet's batch is."""
        return [picture for picture in self.pictures for _ in range(picture.rows)]

    @property
    def counted(self) -> Counter[Submission]:
        """For how many pictures of each submission the last step counts."""
        return Counter(picture.submission for picture in self.pictures if picture.counts)

    @property
    def over(self) -> bool:
        """Whether a picture is done, so that it has to be put together anew."""
        return self.steps_done == self.steps

    def _added_conditions(self) -> Mapping[str, Tensor] | None:
        ids = [picture.conditioning.time_ids for picture in self.rows]
        pooled = [text.pooled for text in self._texts]
        known_ids = [one for one in ids if one is not None]
        known_pooled = [one for one in pooled if one is not None]
        if not known_ids or not known_pooled:
            return None
        return {"text_embeds": torch.cat(known_pooled), "time_ids": torch.stack(known_ids)}

    def step(self, unet: Any) -> None:
        """Take one step of every picture, or, where it raises, of none."""
        number = self.steps_done
        output = self._guide(self.predict(unet))
        noise = self._noise()
        self._latents, self._previous_x0 = take_step(
            self._latents, output, self._previous_x0, self._earlier, noise, self._coefficients[number]
        )
        self._earlier = (output, *self._earlier)[: len(self._earlier)]
        self.steps_done += 1
        for picture in self.pictures:
            picture.position += 1

    def write_back(self) -> None:
        """Let every picture have its latents: before another batch is put together, or when it is done."""
        for row, picture in enumerate(self.pictures):
            picture.latents, picture.previous_x0 = self._latents[row], self._previous_x0[row]
            own = self._earlier[: picture.trajectory.earlier_outputs]
            picture.earlier = tuple(outputs[row] for outputs in own)

    def predict(self, unet: Any) -> Tensor:
        """The UNet's output of every row for the step that is next, float32."""
        number = self.steps_done
        latents = self._latents if self._scales is None else self._latents * self._scales[number]
        rows = latents[: self._guided].repeat_interleave(2, dim=0)
        if self._guided < len(self.pictures):
            rows = torch.cat([rows, latents[self._guided :]])
        rows = rows.to(self._dtype)
        if self._device.type == "cuda":
            rows = rows.contiguous(memory_format=torch.channels_last)
        output: Tensor = unet(
            rows,
            self._timesteps[number],
            encoder_hidden_states=self.embeddings,
            added_cond_kwargs=self._added,
            return_dict=False,
        )[0]
        return output.float()

    def _guide(self, rows: Tensor) -> Tensor:
        """Classifier-free guidance: the UNet's output of every picture."""
        two = 2 * self._guided
        negative, prompt = rows[0:two:2], rows[1:two:2]
        guided = negative + self._guidance * (prompt - negative)
        return guided if two == len(rows) else torch.cat([guided, rows[two:]])

    def _noise(self) -> Tensor | None:
        drawn = [picture.step_noise() for picture in self.pictures]
        if all(noise is None for noise in drawn):
            return None
        shape = (1, *self._latents.shape[1:])
        noises = [torch.zeros(shape) if noise is None else noise.float() for noise in drawn]
        return torch.cat(noises).to(self._device)
