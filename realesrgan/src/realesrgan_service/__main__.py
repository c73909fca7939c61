"""``python -m realesrgan_service``: the service in the foreground, set up by environment variables."""

from __future__ import annotations

from enlight_common import openmp
from enlight_common.settings import SettingsError
from enlight_common.web import serve

from realesrgan_service.settings import ServiceSettings


def main() -> None:
    """Check the settings and become gunicorn, so that signals reach it."""
    serve("realesrgan_service", _check, environment=openmp.WAITING)


def _check() -> None:
    settings = ServiceSettings.from_environment()
    try:
        settings.models_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"MODELS_DIR: cannot be made: {error.strerror}") from error


if __name__ == "__main__":
    main()
