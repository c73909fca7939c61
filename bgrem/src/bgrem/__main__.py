"""``python -m bgrem``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

import os
import sys

from enlight_common.settings import SettingsError
from enlight_common.web import become_gunicorn

from bgrem.service import check_settings
from bgrem.settings import ServiceSettings

_BAD_SETTINGS = 2
#: Pictures are allocated and freed in every thread; with an arena for each, glibc gives little of it back.
_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072"}


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    try:
        check_settings(ServiceSettings.from_environment())
    except SettingsError as error:
        print(f"bgrem: {error}", file=sys.stderr)
        sys.exit(_BAD_SETTINGS)
    for name, value in _MALLOC.items():
        os.environ.setdefault(name, value)
    become_gunicorn("bgrem.gunicorn_config", "bgrem.app:create_app()")


if __name__ == "__main__":
    main()
