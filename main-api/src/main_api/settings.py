"""The service's settings, read from the environment once."""

from __future__ import annotations

from pathlib import Path

from enlight_common.ids import ID_PATTERN
from enlight_common.settings import ServerSettings
from enlight_common.storage.signing import MIN_SECRET_BYTES
from pydantic import Field, SecretStr, field_validator

from main_api.webhooks.addresses import parse_networks

_URL = r"^https?://[!-~]+$"


class MainApiSettings(ServerSettings):
    """Each field is the environment variable of its name in capitals."""

    port: int = Field(8040, ge=1, le=65535)
    data_dir: Path = Path("data")
    public_url: str = Field("http://127.0.0.1:8040", pattern=_URL, description="How clients reach this")
    internal_url: str | None = Field(
        None, pattern=_URL, description="How GPU machines reach this; PUBLIC_URL where not set"
    )
    signing_secret: SecretStr = Field(description="Of signed URLs; 32 bytes or more")

    mongo_url: SecretStr = Field(SecretStr("mongodb://127.0.0.1:27117"), description="May hold a password")
    mongo_database: str = Field("enlight", pattern=r"^[A-Za-z0-9_-]{1,38}$")
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:6379/0"), description="May hold a password")
    redis_cluster: bool = False
    broker_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6380/0"),
        description="redis:// or amqp://; an instance of its own, which never evicts",
    )

    image_store_url: str | None = Field(None, description="DATA_DIR/pictures where not set")
    model_store_url: str | None = Field(None, description="DATA_DIR/store where not set")
    url_expires_s: int = Field(3600, ge=60, le=604_800, description="Of signed URLs")

    dreambooth_url: str | None = Field(
        "http://127.0.0.1:2333",
        pattern=_URL,
        description="nginx in front of the instances; empty: every generation waits for a worker",
    )
    bgrem_url: str = Field("http://127.0.0.1:4000", pattern=_URL)
    upsampler_url: str = Field("http://127.0.0.1:4455", pattern=_URL)
    realesrgan_url: str = Field("http://127.0.0.1:11111", pattern=_URL)
    base_model: str = Field("enlight/tiny-sd", min_length=1, max_length=200)
    base_models: str = Field(
        "", max_length=4000, description="What some worker loads beside BASE_MODEL, commas between"
    )
    legacy_tenant: str | None = Field(
        None, pattern=rf"^{ID_PATTERN}$", description="Whose the kept calls are that send no key"
    )

    lease_s: float = Field(30.0, ge=0.5, le=3600)
    sweep_s: float = Field(5.0, ge=0.1, le=3600, description="Between two looks for expired leases")
    max_attempts: int = Field(3, ge=1, le=20, description="After so many, a job that kills its worker fails")
    instance_timeout_s: float = Field(900.0, ge=1, le=7200, description="Of one picture request")

    webhook_allow_private: str = Field(
        "", max_length=1000, description="Private networks that webhooks may go to: CIDRs, commas between"
    )
    webhook_ports: str = Field(
        "80,443,8080,8443",
        pattern=r"^(any|[0-9]{1,5}(,[0-9]{1,5})*)$",
        description="Ports that webhooks may go to, or `any`",
    )
    webhook_timeout_s: float = Field(10.0, ge=0.1, le=60, description="Of one delivery, redirects included")
    background_threads: int = Field(
        16, ge=2, le=128, description="Of `python -m main_api.background`; half of them forward pictures"
    )
    background_sweep_s: float = Field(
        30.0, ge=0.1, le=3600, description="Between two looks for what no message told of"
    )

    # Quotas of a tenant that has none of its own.
    max_processing: int = Field(8, ge=1, le=10_000)
    max_queued: int = Field(200, ge=1, le=1_000_000)
    max_trainings_a_day: int = Field(50, ge=0, le=1_000_000)
    max_stored_mb: int = Field(10_240, ge=1, le=100_000_000)
    requests_a_minute: int = Field(1200, ge=1, le=1_000_000)

    max_body_mb: int = Field(128, ge=1, le=1024)
    max_upload_mb: int = Field(100, ge=1, le=100)
    #: A quarter of them each for waiting clients, for waiting workers and for pictures under way.
    threads: int = Field(128, ge=16, le=1024)

    @field_validator("dreambooth_url", "image_store_url", "model_store_url", "internal_url", "legacy_tenant",
                     mode="before")  # fmt: skip
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("webhook_allow_private")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        try:
            parse_networks(value)
        except ValueError:
            raise ValueError("must be networks in CIDR notation, commas between") from None
        return value

    @field_validator("signing_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes")
        return value

    @property
    def secret(self) -> bytes:
        return self.signing_secret.get_secret_value().encode()

    @property
    def max_upload_bytes(self) -> int:
        """Bound of one uploaded file in bytes."""
        return self.max_upload_mb * 1024 * 1024

    @property
    def workers_url(self) -> str:
        """Where GPU machines reach this."""
        return (self.internal_url or self.public_url).rstrip("/")

    @property
    def image_store(self) -> str:
        return self.image_store_url or str(self.data_dir / "pictures")

    @property
    def model_store(self) -> str:
        return self.model_store_url or str(self.data_dir / "store")
