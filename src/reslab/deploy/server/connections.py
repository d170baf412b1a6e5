"""HTTP connections with limits on the size of the header and on the time of header and request."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from reslab.deploy.server.settings import ServerSettings

_MAX_HEADER_BYTES = 1 << 16
_MAX_PIPELINED_REQUESTS = 16
_HEADER_TOO_LARGE_BODY = (
    b'{"error": "required: a header of at most 65536 bytes; got: a longer one", "kind": "too_large"}'
)
_HEADER_TOO_LARGE_RESPONSE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_HEADER_TOO_LARGE_BODY), _HEADER_TOO_LARGE_BODY)
)


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's connection, which alone would wait forever for a header to end and keep all of it in memory.

    It closes connections beyond `max_connections`; connections that send no complete header within
    `header_timeout_seconds`, more than 64 KiB outside of bodies, or many requests ahead of their responses; and
    connections whose request and response take longer than twice `timeout_seconds` (one for the body, one for the
    response) plus `header_timeout_seconds`.
    """

    settings = ServerSettings()

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(config, server_state, app_state, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._num_header_bytes = 0  # since the last byte of a body
        self._request_complete = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            transport.abort()
        else:
            self._set_deadline(self.settings.header_timeout_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._num_header_bytes += len(data)
        super().data_received(data)
        if self._deadline is None:
            # After a response, bytes that start no request (an empty line, the rest of a body, data after an upgrade)
            # cancel uvicorn's own keep-alive timeout, so a deadline is set here.
            self._set_deadline(self.settings.header_timeout_seconds)
        if self._num_header_bytes > _MAX_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(_HEADER_TOO_LARGE_RESPONSE)
            self.transport.close()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED_REQUESTS:
            raise ValueError("too many pipelined requests")  # stops the parser; uvicorn responds with 400
        self._request_complete = False
        self._set_deadline(self.settings.header_timeout_seconds)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._num_header_bytes = 0
        self._set_deadline(self._exchange_seconds)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_header_bytes, self._request_complete = 0, True
        super().on_message_complete()
        if self.cycle.response_complete:
            self._set_deadline(None)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._set_deadline(self._exchange_seconds)
        elif self._request_complete:
            self._set_deadline(None)
        super().on_response_complete()

    @property
    def _exchange_seconds(self) -> float:
        return 2 * self.settings.timeout_seconds + self.settings.header_timeout_seconds

    def _set_deadline(self, seconds: float | None) -> None:
        """Close the connection after `seconds`, unless a new deadline is set; None clears it."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def connection_class(settings: ServerSettings) -> type[LimitedConnection]:
    """Return a subclass with these settings, because uvicorn constructs connections itself from a class."""
    return type("Connection", (LimitedConnection,), {"settings": settings})
