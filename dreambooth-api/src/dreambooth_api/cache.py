"""The model cache by hand: what is in it, and what should stay, come or go. `python -m dreambooth_api.cache`

Safe beside running services. Settings are theirs, from the environment: DATA_DIR, MODEL_STORE_URL and
CACHE_DIR; their CACHE_MAX_GB is found in the cache's folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime

from enlight_common.errors import EnlightError
from enlight_common.settings import SettingsError

from dreambooth_api.models.cache.space import noted_bound
from dreambooth_api.models.store import ModelStore, open_store_as_it_is
from dreambooth_api.settings import ServiceSettings

_MEGA = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        store = _open_store()
        if given.action == "list":
            _list(store)
            return 0
        act = _ACTIONS[given.action]
        # Each is tried, also after one that failed.
        return max([_told(act, store, model, given.tenant) for model in given.models])
    except SettingsError as error:
        print(error, file=sys.stderr)
    except EnlightError as error:
        print(error.detail, file=sys.stderr)
    return 2


def _open_store() -> ModelStore:
    settings = ServiceSettings.from_environment()
    bound = settings.cache_max_bytes
    if "CACHE_MAX_GB" not in os.environ:
        # The services', which may have been started with another than the default.
        bound = noted_bound(settings.cache_folder) or bound
    return open_store_as_it_is(settings.store_url, settings.cache_folder, bound)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cache.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="what is cached, least recently used first")
    for name, act in _ACTIONS.items():
        action = actions.add_parser(name, help=act.__doc__)
        action.add_argument("--tenant", default="default", help="whose models (default: %(default)s)")
        action.add_argument("models", nargs="+", metavar="MODEL", help="a model's id, or id@version")
    return parser


def _told(
    act: Callable[[ModelStore, str, str], str | None], store: ModelStore, model: str, tenant: str
) -> int:
    try:
        failed = act(store, model, tenant)
    except EnlightError as error:
        failed = error.detail
    except OSError as error:
        failed = error.strerror or "the disk failed"
    print(f"{model}: {failed or 'done'}", file=sys.stderr if failed else sys.stdout)
    return 1 if failed else 0


def _warm(store: ModelStore, model: str, tenant: str) -> str | None:
    """fetch models that are not here"""
    with store.open(model, tenant):
        return None


def _pin(store: ModelStore, model: str, tenant: str) -> str | None:
    """fetch models and never evict them"""
    with store.open(model, tenant) as artifact:
        store.cache.pin(artifact.manifest.key)
    return None


def _unpin(store: ModelStore, model: str, tenant: str) -> str | None:
    """let pinned models be evicted again"""
    return None if store.cache.pin(store.find(model, tenant), False) else "it is not cached"


def _evict(store: ModelStore, model: str, tenant: str) -> str | None:
    """give their room back, pinned or not"""
    return None if store.cache.evict(store.find(model, tenant)) else "it is not cached, or is in use"


_ACTIONS = {"warm": _warm, "pin": _pin, "unpin": _unpin, "evict": _evict}


def _list(store: ModelStore) -> None:
    models = store.cache.models()
    names = [f"{model.key.tenant}/{model.key.pinned}" for model in models]
    width = max([len("MODEL"), *map(len, names)])
    print(f"{'MODEL':{width}}  {'MB':>9}  {'LAST USED':19}  MARKS")
    for name, model in zip(names, models, strict=True):
        used = datetime.fromtimestamp(model.last_used).isoformat(" ", "seconds")
        marks = [mark for mark, there in (("pinned", model.pinned), ("deleted", model.doomed)) if there]
        print(f"{name:{width}}  {model.bytes / _MEGA:9.1f}  {used}  {' '.join(marks)}".rstrip())
    space = store.cache.space
    used_mb, most_mb = space.inventory.used_bytes() / _MEGA, space.max_bytes / _MEGA
    print(f"{len(models)} models; {used_mb:.1f} of {most_mb:.1f} MB used (CACHE_MAX_GB)")


if __name__ == "__main__":
    sys.exit(main())
