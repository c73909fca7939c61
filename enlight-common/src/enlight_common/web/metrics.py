"""Prometheus metrics: one registry per app, so that two apps in one process do not collide."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from enlight_common.web.logs import route_of_request

# Up to ten minutes: a picture takes seconds, a kept synchronous training minutes.
_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_EXTENSION = "enlight.metrics"


class HttpMetrics:
    """What is counted about every request, in a registry that a service adds its own collectors to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "requests_total", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "request_seconds",
            "Seconds from the first look at a request to the last byte of its answer",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge("requests_in_flight", "Requests being answered", registry=self.registry)


def registry_of(app: Flask) -> CollectorRegistry:
    """The registry behind the `/metrics` of an app that `create_app` made."""
    metrics: HttpMetrics = app.extensions[_EXTENSION]
    return metrics.registry


def install(app: Flask) -> None:
    metrics = HttpMetrics()
    app.extensions[_EXTENSION] = metrics

    def begin() -> None:
        metrics.in_flight.inc()
        g.counted_at = time.monotonic()

    def end(response: Response) -> Response:
        counted_at = g.pop("counted_at", None)
        if counted_at is None:
            return response
        method = request.method if request.method in _METHODS else "OTHER"
        route, status = route_of_request(), str(response.status_code)

        def count() -> None:
            metrics.in_flight.dec()
            metrics.requests.labels(method, route, status).inc()
            metrics.seconds.labels(method, route).observe(time.monotonic() - counted_at)

        response.call_on_close(count)
        return response

    def show() -> Response:
        return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)

    app.before_request(begin)
    app.after_request(end)
    app.add_url_rule("/metrics", "metrics", show)
