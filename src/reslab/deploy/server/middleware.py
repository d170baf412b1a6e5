"""Who comes in: the token, the name the service was called by, and what browsers are told to keep to.

What the service tells Prometheus: requests, latencies, the queue, the batches.
"""

import hmac
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reslab.deploy.server.errors import Refused, refused

# Without a token: the probes, and the pages, which hold nothing of the models and ask for the token themselves.
_OPEN = ("/healthz", "/readyz", "/", "/docs")
_STATIC = "/static/"
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob: mediastream:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Doors:
    """Lets requests in that carry the token, and call the service by one of `hosts` where these are told.

    A page of another site that has its own name point here (DNS rebinding) is turned away by its `Host`.
    """

    def __init__(self, app: ASGIApp, token: str = "", hosts: Sequence[str] = ()) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["path"])
        except Refused as refusal:
            return await refusal.response()(scope, receive, guarded)
        return await self.app(scope, receive, guarded)

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if self.hosts and name.lower() not in self.hosts:
            raise refused(403, f"a request to {' or '.join(sorted(self.hosts))}", repr(host), "start it with --host")
        if self.token and path not in _OPEN and not path.startswith(_STATIC):
            self._check_token(headers.get("authorization", ""))

    def _check_token(self, given: str) -> None:
        kind, _, token = given.partition(" ")
        right = hmac.compare_digest(token.strip().encode(), self.token.encode())
        if kind.lower() != "bearer" or not right:
            got = "another one" if given else "none"
            step = "send the header Authorization: Bearer TOKEN"
            raise refused(401, "the token of this service", got, step, {"WWW-Authenticate": "Bearer"})


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
