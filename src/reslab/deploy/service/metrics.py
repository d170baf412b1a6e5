"""What the service tells Prometheus: requests, latencies, the queue, the batches."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The counters of one service, in a registry of their own: two services of a process do not mix."""

    def __init__(self, num_pictures: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "reslab_requests", "Requests answered.", ["route", "method", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "reslab_request_seconds", "From request to answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "reslab_batch_size", "Pictures computed together.", ["model"], buckets=_BATCHES, registry=self.registry
        )
        depth = Gauge("reslab_queue_depth", "Pictures in the house, waiting or worked on.", registry=self.registry)
        depth.set_function(num_pictures)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

    def told_batches(self, model: str) -> Callable[[int], None]:
        """What hears the size of each batch of a model."""
        observe = self.batches.labels(model).observe
        return lambda size: observe(size)


class Measured:
    """Counts every request with its route (as a template, never as it was written), method and code."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, code = time.perf_counter(), 500

        async def heard(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, heard)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self.metrics.requests.labels(route, method, str(code)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)
        return None
