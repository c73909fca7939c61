"""What one process of main-api holds, and when it begins and ends."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from enlight_common.errors import ShuttingDown, Unavailable
from enlight_common.readiness import Readiness

from main_api.access import Access
from main_api.background import broker
from main_api.base_models import BaseModels
from main_api.cache import Cache
from main_api.events import Events
from main_api.facades.replicate.shapes import replicate_shape
from main_api.instances import InstanceClient
from main_api.jobs.arrivals import Arrivals
from main_api.jobs.completion import WorkerReports
from main_api.jobs.hooks import Hooks
from main_api.jobs.interactive import Interactive
from main_api.jobs.job import Job
from main_api.jobs.keeper import LeaseKeeper
from main_api.jobs.leases import Leases
from main_api.jobs.pictures import Pictures
from main_api.jobs.queue_place import QueuePlaces
from main_api.jobs.quotas import QuotaBook
from main_api.jobs.removal import ObjectRemoval
from main_api.jobs.submission import Submission
from main_api.jobs.sweep import LeaseSweep, Sweeper
from main_api.jobs.view import JobView
from main_api.limits import RateLimits
from main_api.model_catalog import ModelCatalog
from main_api.receiving import Receiver
from main_api.records.audit import Audit
from main_api.records.database import Database
from main_api.records.deliveries import Deliveries
from main_api.records.jobs import Jobs
from main_api.records.keys import Keys
from main_api.records.models import Models
from main_api.records.objects import Objects
from main_api.records.photo_sets import PhotoSets
from main_api.records.reservations import Reservations
from main_api.records.tenants import Tenants
from main_api.records.turns import Turns
from main_api.redis_link import RedisLink
from main_api.settings import MainApiSettings
from main_api.storage import ModelStore, PictureStore
from main_api.webhooks.parts import Webhooks

log = logging.getLogger(__name__)

_PREPARE_AGAIN_S = 3.0
_LOOK_S = 2.0


class Records:
    """Every collection of the database."""

    def __init__(self, database: Database, settings: MainApiSettings) -> None:
        self.tenants = Tenants(database, settings)
        self.keys = Keys(database, "keys")
        self.node_keys = Keys(database, "node_keys")
        self.jobs = Jobs(database)
        self.reservations = Reservations(database)
        self.photo_sets = PhotoSets(database)
        self.models = Models(database)
        self.objects = Objects(database)
        self.audit = Audit(database)
        self.deliveries = Deliveries(database)
        self.turns = Turns(database)


class Service:
    """The parts behind the routes and behind what runs in the background.

    Making one connects to nothing. ``start`` it once in the process that answers requests; ``drain`` it
    before that leaves.
    """

    def __init__(self, settings: MainApiSettings) -> None:
        self.settings = settings
        self.database = Database(settings.mongo_url.get_secret_value(), settings.mongo_database)
        self.redis = RedisLink(settings.redis_url.get_secret_value(), cluster=settings.redis_cluster)
        self.records = Records(self.database, settings)
        self.cache = Cache(self.redis)
        self.limits = RateLimits(self.redis)
        self.events = Events(self.redis)
        self.pictures = PictureStore(settings)
        self.models = ModelStore(settings)
        self.access = Access(self.records, self.cache, self.limits)
        self.catalog = ModelCatalog(self.records.models, self.models.store, self.cache, self.records.audit)
        self.arrivals = Arrivals()
        self.hooks = Hooks()
        self.hooks.on_created += [self.events.announce, self.arrivals.note]
        self.hooks.on_changed += [self.events.announce, self.arrivals.note]
        self.quotas = QuotaBook(self.records.jobs, self.records.objects, self.records.models, self.cache)
        self.leases = Leases(
            self.records.jobs,
            self.hooks,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
            max_processing=lambda tenant: self.access.quotas(tenant).max_processing,
        )
        self.keeper = LeaseKeeper(self.leases)
        self.hooks.on_changed.append(self.keeper.note)
        self.reports = WorkerReports(self.leases, self.pictures, self.records.objects, self.catalog)
        self.receiver = Receiver(self.pictures.store, self.records.objects)
        self.removal = ObjectRemoval(self.pictures, self.records.objects, self.records.jobs)
        self.sources = Pictures(self.pictures, self.records.objects, self.records.jobs)
        self.webhooks = Webhooks(
            settings, self.records.jobs, self.records.tenants, self.records.deliveries, self._told
        )
        self.interactive = Interactive(
            self.leases,
            self.keeper,
            InstanceClient(settings.dreambooth_url, settings.instance_timeout_s)
            if settings.dreambooth_url
            else None,
            self.pictures,
            self.records.objects,
            self.removal,
            places=settings.threads // 4,
        )
        self.submission = self._submission(interactive=None)
        #: For requests whose client waits for the job.
        self.waited_submission = self._submission(interactive=self.interactive)
        places = QueuePlaces(self.records.jobs)
        self.hooks.on_terminal.append(places.note)
        self.view = JobView(self.pictures, places, settings.public_url)
        self.sweeper = Sweeper(LeaseSweep(self.records.jobs, self.leases), settings.sweep_s)
        self._prepared = False
        self._draining = threading.Event()
        self._looked_at = 0.0
        self._missing: list[str] = []

    def _submission(self, interactive: Interactive | None) -> Submission:
        return Submission(
            jobs=self.records.jobs,
            reservations=self.records.reservations,
            photo_sets=self.records.photo_sets,
            catalog=self.catalog,
            base_models=BaseModels(self.settings.base_model, self.settings.base_models),
            pictures=self.sources,
            quotas=self.quotas,
            audit=self.records.audit,
            hooks=self.hooks,
            check_webhook=self.webhooks.check,
            interactive=interactive,
        )

    def _told(self, job: Job) -> dict[str, Any]:
        """A job as its webhook is told of it: in the shape of the API that it came through."""
        if job.origin.get("facade") == "replicate":
            return replicate_shape(job, self.view, self.settings.public_url)
        return self.view.show(job)

    def start(self) -> None:
        """Prepare the database in the background, so that ``/healthz`` answers meanwhile, and sweep."""
        threading.Thread(target=self._prepare, name="prepare", daemon=True).start()
        self.sweeper.start()

    def prepare(self) -> None:
        """Make the database's indexes. Raises Unavailable."""
        self.database.prepare()
        if self.settings.legacy_tenant is not None:
            tenant = self.settings.legacy_tenant
            if self.records.tenants.ensure(tenant):
                self.records.audit.record("tenant.create", tenant=tenant, actor="main-api", target=tenant)
        self._prepared = True

    def _prepare(self) -> None:
        while not self._prepared and not self._draining.is_set():
            try:
                self.prepare()
                log.info("ready")
            except Unavailable as error:
                log.warning("the database is not ready: %s", error.detail)
                self._draining.wait(_PREPARE_AGAIN_S)

    def missing(self) -> list[str]:
        """The dependencies that cannot be reached, as of a moment ago."""
        if time.monotonic() - self._looked_at > _LOOK_S:
            broker_url = self.settings.broker_url.get_secret_value()
            self._missing = [
                name
                for name, is_there in (
                    ("database", self.database.is_reachable),
                    ("redis", self.redis.is_reachable),
                    ("broker", lambda: broker.is_reachable(broker_url)),
                )
                if not is_there()
            ]
            self._looked_at = time.monotonic()
        return self._missing

    @property
    def readiness(self) -> Readiness:
        """Whether the service takes jobs, which it does without Redis and broker, and what it is without."""
        missing = self.missing()
        if self._draining.is_set():
            return Readiness(False, "the service is shutting down", missing)
        if "database" in missing:
            return Readiness(False, "the database cannot be reached", missing)
        return Readiness(self._prepared, "the database is being prepared", missing)

    def check_open(self) -> None:
        """Raise ShuttingDown once the service is leaving."""
        if self._draining.is_set():
            raise ShuttingDown("the service is shutting down")

    @property
    def stopping(self) -> bool:
        """Whether those who wait for something are to be sent away."""
        return self._draining.is_set()

    def drain(self, grace_s: float) -> None:
        """Take no new work, send away who waits, and give what is being drawn *grace_s* seconds."""
        if self._draining.is_set():
            return
        self._draining.set()
        log.info("draining", extra={"grace_s": grace_s})
        self.interactive.drain(grace_s)
        self.sweeper.stop()
        self.keeper.stop()
