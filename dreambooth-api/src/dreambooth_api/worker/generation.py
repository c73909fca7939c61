"""One generation: from its request to its pictures in the store."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any, Literal

from enlight_common.errors import EnlightError, StorageFull, StoreDenied
from enlight_common.schemas.claims import Output, PictureOffer, StoredPicture
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreambooth_api.worker.held import Held
from dreambooth_api.worker.http import Unreachable
from dreambooth_api.worker.instance import Instance, NotDone
from dreambooth_api.worker.main_api import LeaseLost, Refused, Unavailable, patiently
from dreambooth_api.worker.outcomes import (
    Canceled,
    Failed,
    GivenBack,
    Lost,
    Outcome,
    Succeeded,
    of_refusal,
    own_fault,
)
from dreambooth_api.worker.transfers import Transfers, is_final

_PAUSE_S = 5.0


class _Drawn(BaseModel):
    """What the worker reads of `POST /inference`'s answer."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    images: list[str] = Field(min_length=1)
    seeds: list[int]
    format: Literal["png", "jpeg", "webp"]
    seconds: float
    settings: dict[str, Any]


class GenerationWork:
    """Drives one drawing; breaking off its connection is what stops it."""

    def __init__(self, held: Held, instance: Instance, transfers: Transfers) -> None:
        self._held, self._instance, self._transfers = held, instance, transfers
        self._claim = held.claim

    def run(self) -> Outcome:
        """How it ended."""
        claim = self._claim
        try:
            pictures = self._transfers.photos(list(claim.images.values()))
        except EnlightError as error:
            if is_final(error):
                return Failed(error.type, f"the picture to start from: {error.detail}")
            reason = f"the picture to start from: {error.detail}"
            return GivenBack(reason, counts=isinstance(error, StoreDenied), pause_s=_PAUSE_S)
        body = {**claim.input, **dict(zip(claim.images, pictures, strict=True))}
        try:
            drawn = self._draw(body)
        except NotDone as error:
            return self._stopped() or of_refusal(error.answer)
        except Unreachable as error:
            return self._stopped() or GivenBack("the instance died", counts=error.began, pause_s=_PAUSE_S)
        except (EnlightError, ValidationError):
            return Failed("unreadable-answer", "the instance's answer was not the expected one")
        try:
            stored = [self._store(drawn, index) for index in range(len(drawn.images))]
        except LeaseLost:
            return Lost()
        except StorageFull as error:
            return self._stopped() or own_fault(f"a picture was not stored: {error.detail}")
        except (EnlightError, Unavailable, Refused) as error:
            reason = f"a picture was not stored: {error}"
            return self._stopped() or GivenBack(reason, counts=True, pause_s=_PAUSE_S)
        if self._held.why in ("lost", "unheard", "canceled"):
            return self._stopped() or Lost()
        output = Output(pictures=stored, settings=drawn.settings)
        return Succeeded(output, {"gpu_seconds": round(drawn.seconds, 3)})

    def settle(self) -> None:
        """Nothing: what was drawn is main-api's."""

    def undo(self) -> None:
        """Nothing: pictures lie under the claim's own number, and main-api sweeps what no job names."""

    def _draw(self, body: dict[str, Any]) -> _Drawn:
        """Raises NotDone, Unreachable, PayloadTooLarge, ValidationError."""
        drawing = self._instance.drawing()
        self._held.call_on_stop(drawing.abort)
        try:
            answer = self._instance.draw(drawing, self._claim, body)
        finally:
            self._held.call_on_stop(lambda: None)
        return _Drawn.model_validate_json(answer.body)

    def _store(self, drawn: _Drawn, index: int) -> StoredPicture:
        """Raises LeaseLost, Unavailable, Refused, and what `Transfers.put` does."""
        data = base64.b64decode(drawn.images[index])
        offer = PictureOffer(
            fencing=self._claim.fencing,
            index=index,
            format=drawn.format,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        # The same index under the same number is the same picture: it may be offered again.
        grant = patiently(lambda: self._held.api.offer(self._claim.job_id, offer), self._held.patience())
        self._transfers.put(grant, data)
        with Image.open(io.BytesIO(data)) as picture:  # the header alone
            width, height = picture.size
        return StoredPicture(
            index=index,
            key=grant.key,
            format=drawn.format,
            width=width,
            height=height,
            seed=drawn.seeds[index] if index < len(drawn.seeds) else None,
            sha256=offer.sha256,
            size=offer.size,
        )

    def _stopped(self) -> Outcome | None:
        match self._held.why:
            case "lost" | "unheard":
                return Lost()
            case "canceled":
                return Canceled()
            case "leaving":
                return GivenBack("the worker is being stopped", counts=False)
            case _:
                return None
