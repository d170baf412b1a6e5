"""Who comes in: the token, the name the service was called by, and what browsers are told to keep to.

What the service tells Prometheus: requests, latencies, the queue, the batches.
"""

import hmac
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reslab.deploy.server.errors import HTTPError, http_error

# Without a token: the probes, and the pages, which hold nothing of the models and ask for the token themselves.
_PUBLIC_PATHS = ("/healthz", "/readyz", "/", "/docs")
_STATIC_PREFIX = "/static/"
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob: mediastream:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class SecurityMiddleware:
    """Lets requests in that carry the token, and call the service by one of `hosts` where these are told.

    A page of another site that has its own name point here (DNS rebinding) is turned away by its `Host`.
    """

    def __init__(self, app: ASGIApp, token: str = "", hosts: Sequence[str] = ()) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["path"])
        except HTTPError as error:
            return await error.response()(scope, receive, send_with_headers)
        return await self.app(scope, receive, send_with_headers)

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if self.hosts and name.lower() not in self.hosts:
            raise http_error(403, f"a request to {' or '.join(sorted(self.hosts))}", repr(host), "start it with --host")
        if self.token and path not in _PUBLIC_PATHS and not path.startswith(_STATIC_PREFIX):
            self._check_token(headers.get("authorization", ""))

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        is_valid = hmac.compare_digest(token.strip().encode(), self.token.encode())
        if scheme.lower() != "bearer" or not is_valid:
            got = "another one" if authorization else "none"
            step = "send the header Authorization: Bearer TOKEN"
            raise http_error(401, "the token of this service", got, step, {"WWW-Authenticate": "Bearer"})


_BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
_LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class ServerMetrics:
    """The counters of one service, in a registry of their own: two services of a process do not mix."""

    def __init__(self, num_images: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "reslab_requests", "Requests answered.", ["route", "method", "code"], registry=self.registry
        )
        self.latency = Histogram(
            "reslab_request_seconds",
            "From request to answer.",
            ["route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.batch_sizes = Histogram(
            "reslab_batch_size",
            "Images computed together.",
            ["model"],
            buckets=_BATCH_SIZE_BUCKETS,
            registry=self.registry,
        )
        in_flight = Gauge("reslab_queue_depth", "Images in the house, waiting or worked on.", registry=self.registry)
        in_flight.set_function(num_images)

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

    def batch_size_observer(self, model: str) -> Callable[[int], None]:
        """What hears the size of each batch of a model."""
        observe = self.batch_sizes.labels(model).observe
        return lambda size: observe(size)


class MetricsMiddleware:
    """Counts every request with its route (as a template, never as it was written), method and code."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, code = time.perf_counter(), 500

        async def send_and_record(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_record)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self.metrics.requests.labels(route, method, str(code)).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - started)
        return None
