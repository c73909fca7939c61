"""gunicorn's threaded worker, which says that it is leaving before it stops listening."""

from __future__ import annotations

import logging
import os
import threading
from types import FrameType

from gunicorn.workers.gthread import ThreadWorker

log = logging.getLogger(__name__)

#: Under this name an app's extensions hold what is to be done before its process leaves.
DRAIN = "enlight-drain"


class DrainingWorker(ThreadWorker):  # type: ignore[misc]
    """On SIGTERM it does what `create_app` was told to do on draining first, and leaves then.

    gunicorn's own worker accepts no connection from the signal on: a load balancer's question for
    ``/readyz`` would hang instead of being told no. This one goes on answering while the service drains.
    """

    leaving = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Who ends a group or a session tells this process, and the master tells it again.
        if self.leaving:
            return
        self.leaving = True
        # A thread, because a signal handler holds up the loop that takes connections.
        threading.Thread(target=self._drain_and_leave, args=(sig, frame), name="drain", daemon=True).start()

    def _drain_and_leave(self, sig: int, frame: FrameType | None) -> None:
        try:
            self.wsgi.extensions[DRAIN]()
        except Exception:
            log.exception("draining failed")
        super().handle_exit(sig, frame)

    def run(self) -> None:
        super().run()
        # All is drained. What libraries still compute, as a compiler of torch's does, would abort the process
        # in the interpreter's end.
        logging.shutdown()
        os._exit(0)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        # Ctrl-C. Python would wait here for the training's thread to end, and that for its child.
        self.alive = False
        os._exit(0)

    def is_parent_alive(self) -> bool:
        # The master was killed. Whoever starts the service again needs the port at once, and nothing is lost
        # by leaving at once: the training's child sees its pipe close, and artifacts are published whole.
        if self.ppid != os.getppid():
            log.error("the gunicorn master is gone, leaving")
            os._exit(1)
        return True
