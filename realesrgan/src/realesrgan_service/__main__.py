"""``python -m realesrgan_service``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

import os
import sys

from enlight_common.settings import SettingsError
from enlight_common.web import become_gunicorn

from realesrgan_service.settings import ServiceSettings

_BAD_SETTINGS = 2


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    try:
        settings = ServiceSettings.from_environment()
        settings.models_folder.mkdir(parents=True, exist_ok=True)
    except SettingsError as error:
        sys.exit(_complain(str(error)))
    except OSError as error:
        sys.exit(_complain(f"MODELS_DIR cannot be made: {error.strerror}"))
    # OpenMP's threads would spin between two tiles, on cores that encode the last picture.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    become_gunicorn("realesrgan_service.gunicorn_config", "realesrgan_service.app:create_app()")


def _complain(message: str) -> int:
    print(f"realesrgan: {message}", file=sys.stderr)
    return _BAD_SETTINGS


if __name__ == "__main__":
    main()
