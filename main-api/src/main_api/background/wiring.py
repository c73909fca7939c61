"""What the process that answers requests has to do with the background: it tells of changes."""

from __future__ import annotations

from main_api.background.broker import open_broker
from main_api.background.hooks import connect
from main_api.background.messages import Messages
from main_api.service import Service


def tell_background(service: Service) -> Messages:
    """Let the service's changes be told of through BROKER_URL. Connects when there is something to tell."""
    messages = Messages(open_broker(service.settings.broker_url.get_secret_value()))
    connect(service.hooks, messages)
    return messages
