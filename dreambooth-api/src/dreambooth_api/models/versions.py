"""Which versions a model has, as far as is known here: asked of the object store now and then, and of the
cache each time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from enlight_common.errors import StoreDenied, StoreUnavailable

from dreambooth_api.models.artifact import ModelKey
from dreambooth_api.models.cache.entry import LOCK
from dreambooth_api.models.cache.model_cache import ModelCache
from dreambooth_api.models.catalog import Catalog

_log = logging.getLogger(__name__)

#: How long another machine's new version or deletion may go unnoticed. On this machine both show at once.
FRESH_S = 30.0
#: A store that is slow to answer is not waited for any longer where a cached version can be served.
_PATIENCE_S = 2.0
#: One that cannot be asked is asked again after this time, or after as long as it took to find out.
_ASK_AGAIN_S = 5.0
#: Clocks of machines, and a listing that began before a model was published.
_RECENT_S = 120.0
_REMEMBERED = 4096


@dataclass(frozen=True)
class Versions:
    """A model's versions, newest first. `certain` is off where the object store could not be asked."""

    names: tuple[str, ...]
    certain: bool = True


@dataclass(frozen=True)
class _Answer:
    """What the object store said, or None for nothing, and until when (monotonic) that is to do."""

    names: tuple[str, ...] | None
    until: float


class KnownVersions:
    """The versions of many models, for many threads."""

    def __init__(self, catalog: Catalog, cache: ModelCache, fresh_s: float) -> None:
        self.fresh_s = fresh_s
        self._catalog, self._cache = catalog, cache
        self._answers: OrderedDict[tuple[str, str], _Answer] = OrderedDict()
        self._asking: dict[tuple[str, str], Future[_Answer]] = {}
        self._lock = threading.Lock()

    def of(self, tenant: str, model_id: str) -> Versions:
        """The model's versions. Raises StoreUnavailable, StoreDenied where there is not even a cached one."""
        here = self._cache.inventory.versions(tenant, model_id)
        known = self._answer(tenant, model_id, here)
        if here and known.names is not None and here[0] > max(known.names, default=""):
            # Another instance of this machine published it just now; or it was deleted elsewhere.
            self.forget(tenant, model_id)
            known = self._answer(tenant, model_id, here)
        if known.names is not None:
            return Versions(known.names)
        return Versions(tuple(here), certain=False)

    def forget(self, tenant: str, model_id: str) -> None:
        """Ask the object store the next time."""
        with self._lock:
            self._answers.pop((tenant, model_id), None)
            self._asking.pop((tenant, model_id), None)

    def _answer(self, tenant: str, model_id: str, here: Sequence[str]) -> _Answer:
        name = tenant, model_id
        with self._lock:
            known = self._answers.get(name)
            # Where nothing can be served meanwhile, a store that was away is asked each time.
            if known is not None and time.monotonic() < known.until and (here or known.names is not None):
                return known
            asking = self._asking.get(name)
            if asking is None:
                asking = self._asking[name] = Future()
                # A daemon, because the end of the process must not wait for a store that hangs.
                threading.Thread(target=self._ask, args=(name, asking), name="ask", daemon=True).start()
        try:
            return asking.result(_PATIENCE_S if here else None)
        except TimeoutError:
            return known or _Answer(None, 0.0)
        except (StoreUnavailable, StoreDenied):
            if not here:
                raise
            return _Answer(None, 0.0)

    def _ask(self, name: tuple[str, str], asking: Future[_Answer]) -> None:
        began, began_at = time.monotonic(), time.time()
        try:
            names = tuple(self._catalog.versions(*name))
            with contextlib.suppress(StoreUnavailable, StoreDenied):
                self._remove_deleted(name, names, began_at)
            answer = _Answer(names, time.monotonic() + self.fresh_s)
            self._keep(name, asking, answer)
            asking.set_result(answer)
        except (StoreUnavailable, StoreDenied) as error:
            _log.warning("the object store cannot be asked, cached models are served: %s", error.detail)
            wait = max(min(_ASK_AGAIN_S, self.fresh_s), time.monotonic() - began)
            before = self._answers.get(name)
            # What it said before still counts for more than nothing.
            names_before = before.names if before is not None else None
            self._keep(name, asking, _Answer(names_before, time.monotonic() + wait))
            asking.set_exception(error)
        except BaseException as error:
            self._keep(name, asking, None)
            asking.set_exception(error)

    def _keep(self, name: tuple[str, str], asking: Future[_Answer], answer: _Answer | None) -> None:
        with self._lock:
            if self._asking.get(name) is not asking:
                return  # forgotten meanwhile: it may be about the time before
            del self._asking[name]
            if answer is not None:
                self._answers[name] = answer
                self._answers.move_to_end(name)
                while len(self._answers) > _REMEMBERED:
                    self._answers.popitem(last=False)

    def _remove_deleted(self, name: tuple[str, str], there: Sequence[str], asked_at: float) -> None:
        """Let go of entries that another machine deleted from the object store."""
        for version in set(self._cache.inventory.versions(*name)) - set(there):
            key = ModelKey(*name, version)
            with contextlib.suppress(FileNotFoundError):
                taken_in = (self._cache.inventory.folder_of(key) / LOCK).stat().st_mtime
                if asked_at - taken_in > _RECENT_S and not self._catalog.has(key):
                    self._cache.remove(key)
