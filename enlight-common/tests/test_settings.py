from __future__ import annotations

import pytest
from enlight_common.settings import Settings, SettingsError
from pydantic import Field, ValidationError


class Sample(Settings):
    port: int = Field(5000, ge=1, le=65535)
    api_key: str = Field(min_length=20)


def test_reads_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "5001")
    monkeypatch.setenv("API_KEY", "k" * 20)
    settings = Sample.from_environment()
    assert (settings.port, settings.api_key) == (5001, "k" * 20)
    with pytest.raises(ValidationError):
        settings.port = 1


def test_names_every_wrong_variable_and_no_value(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PORT", "70000")
    monkeypatch.setenv("API_KEY", "hunter2")
    with pytest.raises(SettingsError) as caught:
        Sample.from_environment()
    text = str(caught.value)
    assert "PORT: must be less than or equal to 65535" in text
    assert "API_KEY: " in text
    assert "hunter2" not in text
    assert "70000" not in text


def test_names_a_missing_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("API_KEY", raising=False)
    with pytest.raises(SettingsError, match="API_KEY: is required"):
        Sample.from_environment()
