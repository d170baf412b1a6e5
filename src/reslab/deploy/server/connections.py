"""HTTP connections with limits on heads, chunks, times and idle connections, and an orderly end of the server."""

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.settings import ServerSettings

_MAX_HEAD_BYTES = 1 << 16
_MAX_PIPELINED_REQUESTS = 16
# Parsing a chunk costs as much as parsing hundreds of bytes: chunks beyond the first ones have to be worth it.
_NUM_FREE_CHUNKS = 1024
_MIN_CHUNK_BYTES = 128


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's connection, which alone would wait forever for a head to end and keep all of it in memory.

    It closes, with an error response where a request was begun: connections that send no complete head within
    `header_timeout_seconds`, a head of more than 64 KiB, chunks of a few bytes, or many requests ahead of their
    responses; and connections whose request and response take longer than twice `timeout_seconds` (one for the body,
    one for the response) plus `header_timeout_seconds`.

    Beyond `max_connections`, the connection that has waited longest for its client makes room for the new one, of the
    client with the most connections. A client that closes its side only gets its response.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        settings: ServerSettings,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, server_state, app_state, **kwargs)
        self.settings = settings
        self.is_draining = False
        self.waiting_since = time.monotonic()  # the loop's own clock counts whole milliseconds: many would be equal
        self._deadline: asyncio.TimerHandle | None = None
        self._num_unparsed_bytes = 0  # since the last byte of a head or body that was parsed
        self._num_head_bytes = 0
        self._num_body_bytes, self._num_chunks = 0, 0
        self._request_begun, self._request_complete, self._is_half_closed = False, False, False
        self._refusal: HTTPError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline(self.settings.header_timeout_seconds)
        if len(self.connections) > self.settings.max_connections:
            self._evict_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        super().connection_lost(exc)

    @property
    def client_key(self) -> str:
        """The client's address."""
        return client_key(self.client[0] if self.client else "")

    @property
    def is_waiting(self) -> bool:
        """True if the server waits for the client: for a request, or the rest of one."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return not self.pipeline and (is_answered or not self._request_complete)

    def _evict_waiting(self) -> None:
        others = [
            connection
            for connection in self.connections
            if isinstance(connection, LimitedConnection) and connection is not self
        ]
        num_connections = Counter(connection.client_key for connection in others)
        waiting = [
            connection for connection in others if connection.is_waiting and not connection.transport.is_closing()
        ]
        if not waiting:
            got = f"{len(others)} connections with requests"
            self._refuse(http_error(503, "a free connection", got, "try again in a second", {"Retry-After": "1"}))
            return
        evicted = max(
            waiting, key=lambda connection: (num_connections[connection.client_key], -connection.waiting_since)
        )
        if evicted._request_begun:
            step = "send requests without pauses"
            evicted._refuse(http_error(408, "a complete request", "a part of it, while others wait", step))
        else:
            evicted.transport.close()

    def data_received(self, data: bytes) -> None:
        self._num_unparsed_bytes += len(data)
        super().data_received(data)
        if self._deadline is None:
            # After a response, bytes that start no request (an empty line, the rest of a body, data after an upgrade)
            # cancel uvicorn's own keep-alive timeout, so a deadline is set here.
            self._set_deadline(self.settings.header_timeout_seconds)
        if self._num_unparsed_bytes > _MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open until the requests that have been received are answered."""
        self._is_half_closed = True
        if self.is_waiting:
            if self._request_begun:
                self._refuse(http_error(400, "a complete request", "the end of the connection", "send it again"))
            return False
        return True

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED_REQUESTS:
            self._fail(http_error(400, f"at most {_MAX_PIPELINED_REQUESTS} requests ahead of responses", "more"))
        self._request_begun, self._request_complete = True, False
        self._num_head_bytes = self._num_body_bytes = self._num_chunks = 0
        self._set_deadline(self.settings.header_timeout_seconds)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head_bytes(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head_bytes(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count_head_bytes(self, count: int) -> None:
        self._num_head_bytes += count
        if self._num_head_bytes > _MAX_HEAD_BYTES:
            self._fail(_head_too_large())

    def on_headers_complete(self) -> None:
        self._num_unparsed_bytes = 0
        self._set_deadline(self._exchange_seconds)
        previous = self.cycle
        super().on_headers_complete()
        if self.is_draining:
            if previous is not None and not previous.response_started:
                previous.keep_alive = True  # of several requests, the response to the last one closes the connection
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._num_unparsed_bytes = 0
        self._num_chunks += 1
        self._num_body_bytes += len(body)
        if self._num_chunks > _NUM_FREE_CHUNKS + self._num_body_bytes // _MIN_CHUNK_BYTES:
            got = f"{self._num_chunks} chunks with {self._num_body_bytes} bytes"
            step = "send larger chunks, or a Content-Length"
            self._fail(http_error(400, f"chunks of at least {_MIN_CHUNK_BYTES} bytes", got, step))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_unparsed_bytes, self._request_complete = 0, True
        super().on_message_complete()
        if self.cycle.response_complete:
            self._request_begun = False
            self._set_deadline(None)

    def on_response_complete(self) -> None:
        self.waiting_since = time.monotonic()
        if self.pipeline:
            self._set_deadline(self._exchange_seconds)
        elif self._request_complete:
            self._request_begun = False
            self._set_deadline(None)
        super().on_response_complete()
        if self._is_half_closed and self.cycle.response_complete:
            self.transport.close()

    def begin_draining(self) -> None:
        """Close the connection after the response to the last request that has arrived."""
        self.is_draining = True
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    @property
    def _exchange_seconds(self) -> float:
        return 2 * self.settings.timeout_seconds + self.settings.header_timeout_seconds

    def _set_deadline(self, seconds: float | None) -> None:
        """Close the connection after `seconds`, unless a new deadline is set; None clears it."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _fail(self, error: HTTPError) -> None:
        """Stop the parser from within one of its callbacks; it then calls `send_400_response`."""
        self._refusal = error
        raise error

    def send_400_response(self, msg: str) -> None:
        """Send the error that stopped the parser."""
        self._refuse(self._refusal or http_error(400, "a valid HTTP request", "another one", "send it again"))

    def _refuse(self, error: HTTPError) -> None:
        """Send an error and close the connection; while another response is on its way, only close it."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not (self.cycle.response_started or self.pipeline):
            self.transport.write(_response_bytes(error))
        self.transport.close()


def _head_too_large() -> HTTPError:
    return http_error(
        431, f"a head of at most {_MAX_HEAD_BYTES} bytes", "a longer one", "send fewer or shorter headers"
    )


def _response_bytes(error: HTTPError) -> bytes:
    response = error.response()
    headers = [*response.raw_headers, (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % header for header in headers)
    return STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body)


def client_key(host: str) -> str:
    """Return the key of a client: its address; for IPv6 the network of 64 bits, all of which belongs to one client."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def split_port(address: str) -> str:
    """Return an address without its port: `192.0.2.1:80` and `[2001:db8::1]:80`, as some proxies give it."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def connection_class(settings: ServerSettings) -> type[asyncio.Protocol]:
    """Return what makes connections with these settings; uvicorn only calls it."""
    make_connection: Callable[..., LimitedConnection] = partial(LimitedConnection, settings=settings)
    return cast("type[asyncio.Protocol]", make_connection)


# Long enough for the event loop to accept and read all that has arrived before the signal.
_DRAIN_SECONDS = 0.3


class DrainingServer(uvicorn.Server):
    """A uvicorn server that, when it is asked to stop, first reads what has arrived.

    uvicorn closes idle connections at once, which resets those whose next request has arrived but was not read yet.
    """

    async def shutdown(self, sockets: Any = None) -> None:
        """Answer what has arrived, each response closing its connection, then stop."""
        end = asyncio.get_running_loop().time() + _DRAIN_SECONDS
        while asyncio.get_running_loop().time() < end:
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedConnection) and not connection.is_draining:
                    connection.begin_draining()
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
