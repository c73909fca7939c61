"""``python -m main_api.background``: the actors and the sweep, a process of its own beside the server."""

from __future__ import annotations

import logging
import logging.config
import signal
import sys
import threading

import dramatiq
from enlight_common.settings import SettingsError
from enlight_common.web import log_settings

from main_api.background.actors import declare
from main_api.background.broker import open_broker
from main_api.background.messages import Messages
from main_api.background.work import Work
from main_api.jobs.sweep import Sweeper
from main_api.service import Service
from main_api.settings import MainApiSettings

log = logging.getLogger(__name__)

_BAD_SETTINGS = 2
#: Beyond the grace time: what was given back, and the last acknowledgements.
_LAST_S = 3.0


class BackgroundProcess:
    """A worker of dramatiq's over the service's parts, and the sweep in a thread of its own."""

    def __init__(self, settings: MainApiSettings) -> None:
        self.service = Service(settings)
        broker = open_broker(settings.broker_url.get_secret_value())
        self.messages = Messages(broker)
        self.work = Work(self.service, self.messages)
        declare(broker, self.work)
        self._worker = dramatiq.Worker(broker, worker_threads=settings.background_threads)
        # dramatiq's default: enough that no thread waits for the network, and little enough to leave the
        # rest to other processes. Messages are small; what takes long holds one of them at a time.
        self._worker.queue_prefetch = 2 * settings.background_threads
        self._sweeper = Sweeper(self.work.sweep.run, settings.background_sweep_s)

    def start(self) -> None:
        self._worker.start()
        self._sweeper.start()
        log.info("ready", extra={"threads": self._worker.worker_threads})

    def stop(self) -> None:
        """Begin nothing more, give what is under way the grace time, and give back what is left then."""
        grace_s = self.service.settings.grace_s
        log.info("draining", extra={"grace_s": grace_s})
        self._sweeper.stop()
        self.work.forwarder.drain()
        self._worker.stop(timeout=1000 * grace_s)
        if self.work.forwarder.running:
            self.work.forwarder.give_back()
        self.messages.stop(_LAST_S)
        self.service.keeper.stop()


def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    try:
        settings = MainApiSettings.from_environment()
        logging.config.dictConfig(log_settings(settings.log_level))
        process = BackgroundProcess(settings)
    except SettingsError as error:
        print(f"main-api background: {error}", file=sys.stderr)
        sys.exit(_BAD_SETTINGS)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    process.start()
    over.wait()
    process.stop()


if __name__ == "__main__":
    main()
