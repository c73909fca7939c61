"""``python -m main_api``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

import sys

from enlight_common.settings import SettingsError
from enlight_common.web import become_gunicorn

from main_api.settings import MainApiSettings

_BAD_SETTINGS = 2


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    try:
        MainApiSettings.from_environment()
    except SettingsError as error:
        print(f"main-api: {error}", file=sys.stderr)
        sys.exit(_BAD_SETTINGS)
    become_gunicorn("main_api.gunicorn_config", "main_api.app:create_app()")


if __name__ == "__main__":
    main()
