"""Metrics: each named here, once, and documented in docs/SERVER.md."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody asked for
SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600)


class Metrics:
    """The metrics of one server. `beside`: renders those of what else its daemon serves."""

    def __init__(self) -> None:
        self.beside: Callable[[], str] = str
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lfsfs_http_requests_total", "Requests that were answered.", ["method", "endpoint", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "lfsfs_http_request_seconds", "From the request's head to the last byte of its answer.", ["endpoint"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.active = Gauge(
            "lfsfs_http_active_requests", "Requests being answered now.", registry=self.registry
        )
        self.connections = Gauge(
            "lfsfs_http_connections", "Connections that are open now.", registry=self.registry
        )
        self.refused = Counter(
            "lfsfs_http_refused_connections_total", "Connections refused because there were too many.",
            registry=self.registry,
        )  # fmt: skip
        self.bytes = Counter(
            "lfsfs_transferred_bytes_total", "Bytes of objects that moved.", ["direction"],
            registry=self.registry,
        )  # fmt: skip
        self.objects = Counter(
            "lfsfs_batch_objects_total",
            "Objects that batches asked for.",
            ["operation"],
            registry=self.registry,
        )
        self.fed_bytes = Counter(
            "lfsfs_fed_bytes_total", "Bytes of objects that a push did not move, as the mount had them.",
            registry=self.registry,
        )  # fmt: skip

    def batch(self, operation: str, objects: int) -> None:
        self.objects.labels(operation).inc(objects)

    def fed(self, size: int) -> None:
        self.fed_bytes.inc(size)

    def rendered(self) -> bytes:
        """In the text format of Prometheus."""
        return self.beside().encode() + generate_latest(self.registry)
