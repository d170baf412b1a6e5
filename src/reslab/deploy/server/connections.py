"""A connection that cannot be held open for nothing: its head has a length and a time, its exchange a time."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from reslab.deploy.server.settings import ServerSettings

_MAX_HEADER_BYTES = 1 << 16
_MAX_PIPELINED_REQUESTS = 16
_HEADER_TOO_LARGE_BODY = b'{"error": "required: a head of at most 65536 bytes; got: a longer one"}'
_HEADER_TOO_LARGE_RESPONSE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_HEADER_TOO_LARGE_BODY), _HEADER_TOO_LARGE_BODY)
)


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's, which by itself waits for ever for a head to end, and keeps all of it.

    Cut are: connections beyond `max_connections`; those that send no whole head within `head_seconds`, more than 64 KiB
    that belong to no body, or a row of requests far ahead of their answers; and those whose request and answer have not
    passed in twice `timeout_seconds` (the body may take one, the answer the other) and `head_seconds`.
    """

    settings = ServerSettings()

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(config, server_state, app_state, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._num_header_bytes = 0  # since the last that were a body's
        self._request_complete = False  # the request has come to its end

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
            # After an answer, what begins no request (an empty line, the rest of a body, what follows an upgrade) has
            # taken away uvicorn's own limit of an idle connection.
            self._set_deadline(self.settings.header_timeout_seconds)
        if self._num_header_bytes > _MAX_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(_HEADER_TOO_LARGE_RESPONSE)
            self.transport.close()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED_REQUESTS:
            raise ValueError("too many requests ahead of their answers")  # the parser stops, and uvicorn answers 400
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
        """What is awaited is to come in so many seconds; None where nothing is."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def connection_class(settings: ServerSettings) -> type[LimitedConnection]:
    """The connection with these limits, as uvicorn makes its own by class."""
    return type("Connection", (LimitedConnection,), {"settings": settings})
