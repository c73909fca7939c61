"""``python -m bgrem``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

from enlight_common.web import serve

from bgrem.service import check_settings
from bgrem.settings import ServiceSettings

#: Pictures are allocated and freed in every thread; with an arena for each, glibc gives little of it back.
_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072"}


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    serve("bgrem", lambda: check_settings(ServiceSettings.from_environment()), environment=_MALLOC)


if __name__ == "__main__":
    main()
