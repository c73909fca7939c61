"""Who steps next: models share the device evenly, and so do the requests for one model.

Fair queueing by virtual time: whoever was served least comes first, who comes anew starts where the least
served of the others are, and what a step costs is counted in latent pixels and not in seconds, so
that the order does not depend on the machine's mood.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from dreambooth_api.inference.denoising.submission import Submission
from dreambooth_api.inference.denoising.underway import PictureUnderWay

#: Steps that a batch takes together before others have a turn who do not fit into it. Each change of a batch
#: costs about a third of a step (gathering, merging adapters): 4% at this length.
TURN_STEPS = 8

#: Whether a picture may step in the same batch as those.
Fits = Callable[[Sequence[PictureUnderWay], PictureUnderWay], bool]


@dataclass
class _Flow:
    """Those of one model. *served* is their virtual time, *requests* that of each among them."""

    served: float
    requests: dict[Submission, float] = field(default_factory=dict)


class FairShares:
    """Keeps account of who was served how much, and picks batches."""

    def __init__(self) -> None:
        self._flows: dict[Hashable, _Flow] = {}

    def charge(self, batch: Iterable[PictureUnderWay], steps: int = 1) -> None:
        """Note that these pictures took so many steps."""
        for picture in batch:
            flow = self._flow_of(picture)
            flow.served += picture.cost * steps
            flow.requests[picture.submission] += picture.cost * steps

    def pick(
        self, pictures: Sequence[PictureUnderWay], fits: Fits, keep: Sequence[PictureUnderWay] = ()
    ) -> list[PictureUnderWay]:
        """A batch out of *pictures*, which are in the order of their arrival, in which each *fits* beside
        those before it. With *keep* it is these and whoever still fits beside them.
        """
        self._forget_but(pictures)
        served = {key: flow.served for key, flow in self._flows.items()}
        requests = {request: at for flow in self._flows.values() for request, at in flow.requests.items()}
        batch = list(keep)
        kept = set(batch)
        left = [picture for picture in pictures if picture not in kept]
        while left := [picture for picture in left if not batch or fits(batch, picture)]:
            # Begun pictures first within a request; the sort of equals is that of arrival.
            chosen = min(
                left,
                key=lambda one: (
                    served[one.adapters.models],
                    requests[one.submission],
                    -one.position,
                ),
            )
            batch.append(chosen)
            left.remove(chosen)
            ahead = chosen.cost * TURN_STEPS
            served[chosen.adapters.models] += ahead
            requests[chosen.submission] += ahead
        return batch

    def _forget_but(self, pictures: Sequence[PictureUnderWay]) -> None:
        """Keep the accounts of those that have pictures here; open one for those that are new."""
        here: dict[Hashable, set[Submission]] = {}
        for picture in pictures:
            here.setdefault(picture.adapters.models, set()).add(picture.submission)
        self._flows = {key: flow for key, flow in self._flows.items() if key in here}
        for key, submissions in here.items():
            flow = self._flows.get(key)
            if flow is None:
                least = min((other.served for other in self._flows.values()), default=0.0)
                flow = self._flows[key] = _Flow(least)
            known = {one: at for one, at in flow.requests.items() if one in submissions}
            least = min(known.values(), default=0.0)
            flow.requests = {one: known.get(one, least) for one in submissions}

    def _flow_of(self, picture: PictureUnderWay) -> _Flow:
        return self._flows[picture.adapters.models]
