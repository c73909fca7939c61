"""Webhooks' deliveries and their secret, as they are shown."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ShownDelivery(BaseModel):
    """A webhook that was, or is to be, sent."""

    id: str = Field(description="The `webhook-id` of its header")
    job_id: str
    event: Literal["start", "output", "logs", "completed"]
    url: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    last_status: int | None = Field(description="What the receiver answered last")
    last_error: str | None
    last_attempt_at: str | None
    next_attempt_at: str | None
    delivered_at: str | None
    created_at: str


class DeliveryList(BaseModel):
    """Oldest first."""

    deliveries: list[ShownDelivery]


class WebhookSecret(BaseModel):
    """What webhooks are signed with: HMAC-SHA256 over `<id>.<timestamp>.<body>`, in base64."""

    key: str
