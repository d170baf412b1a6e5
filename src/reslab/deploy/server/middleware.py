"""Middleware: token, host, origin and security headers; Prometheus metrics of requests, latencies and batches."""

import hmac
import ipaddress
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reslab.deploy.server.errors import HTTPError, http_error

# Accessible without a token: the health checks, and the pages, which contain no model data and ask for the token.
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
    """Rejects requests without the token, for other hosts, and from web pages of other origins.

    The `Host` header must be an IP address or in `hosts`, unless that is empty: a foreign page whose host name resolves
    to this server (DNS rebinding) is rejected. A browser names the page that sends a request in `Origin` and
    `Sec-Fetch-Site`: requests from other pages than the server's own and those of `origins` are rejected, because any
    web page could otherwise make the browser of a user send work to this server. Other programs send no such headers.
    """

    def __init__(self, app: ASGIApp, token: str = "", hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> None:
        self.app, self.token = app, token
        self.hosts, self.origins = frozenset(hosts), frozenset(origins)

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
            headers = Headers(scope=scope)
            self._check_host(headers.get("host", ""))
            self._check_origin(headers, scope)
            if self.token and not _is_public(scope["path"]):
                self._check_token(headers.get("authorization", ""))
        except HTTPError as error:
            return await error.response()(scope, receive, send_with_headers)
        return await self.app(scope, receive, send_with_headers)

    def _check_host(self, host: str) -> None:
        name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if self.hosts and name.lower() not in self.hosts and not _is_ip_address(name):
            step = "start the server with --allow-host NAME"
            raise http_error(403, f"a request to {' or '.join(sorted(self.hosts))}", repr(host[:100]), step)

    def _check_origin(self, headers: Headers, scope: Scope) -> None:
        """Raise HTTPError (403) for a request from a web page of another origin, except for links to public pages."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None:
            is_allowed = origin in self.origins or origin.partition("://")[2] == headers.get("host", "")
        else:
            is_link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
            is_allowed = site in ("none", "same-origin") or (is_link and _is_public(scope["path"]))
        if not is_allowed:
            got = f"one from {origin[:100]!r}" if origin is not None else f"a {site[:20]} one"
            step = "start the server with --allow-origin ORIGIN"
            raise http_error(403, "a request from this server's own pages", got, step)

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        is_valid = hmac.compare_digest(token.strip().encode(), self.token.encode())
        if scheme.lower() != "bearer" or not is_valid:
            got = "a different token" if authorization else "none"
            step = "send the header Authorization: Bearer TOKEN"
            raise http_error(401, "the token of this server", got, step, {"WWW-Authenticate": "Bearer"})


def _is_public(path: str) -> bool:
    return path in _PUBLIC_PATHS or path.startswith(_STATIC_PREFIX)


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
_LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class ServerMetrics:
    """The metrics of one application, in a registry of its own, so that two applications in a process do not mix."""

    def __init__(self, num_images: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "reslab_requests", "Number of requests.", ["route", "method", "code"], registry=self.registry
        )
        self.latency = Histogram(
            "reslab_request_seconds",
            "Seconds from request to response.",
            ["route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.batch_sizes = Histogram(
            "reslab_batch_size",
            "Images per batch.",
            ["model"],
            buckets=_BATCH_SIZE_BUCKETS,
            registry=self.registry,
        )
        in_flight = Gauge("reslab_queue_depth", "Images waiting or being computed.", registry=self.registry)
        in_flight.set_function(num_images)

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def batch_size_observer(self, model: str) -> Callable[[int], None]:
        """Return the callback that records the batch sizes of a model."""
        observe = self.batch_sizes.labels(model).observe
        return lambda size: observe(size)


class MetricsMiddleware:
    """Counts every request by route template, method and status code."""

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
