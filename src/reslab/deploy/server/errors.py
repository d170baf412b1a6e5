"""Error responses: their kind, HTTP status and message."""

from collections.abc import Mapping
from enum import StrEnum

from starlette.responses import JSONResponse

from reslab.spec.errors import invalid

_MAX_MESSAGE_LENGTH = 2000


class ErrorKind(StrEnum):
    """The kinds of errors, for programs; each belongs to one HTTP status."""

    MALFORMED = "malformed"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    UNSUPPORTED_TYPE = "unsupported_type"
    INVALID_VALUE = "invalid_value"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"
    NOT_READY = "not_ready"


_KINDS = {
    400: ErrorKind.MALFORMED,
    401: ErrorKind.UNAUTHORIZED,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    405: ErrorKind.METHOD_NOT_ALLOWED,
    408: ErrorKind.TIMEOUT,
    413: ErrorKind.TOO_LARGE,
    415: ErrorKind.UNSUPPORTED_TYPE,
    422: ErrorKind.INVALID_VALUE,
    429: ErrorKind.OVERLOADED,
    431: ErrorKind.TOO_LARGE,
    503: ErrorKind.NOT_READY,
    504: ErrorKind.TIMEOUT,
}


class HTTPError(Exception):
    """An error response: HTTP `status`, the `message` for the caller and extra headers; `kind` names the status."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        # Messages quote the request; a name of a megabyte must not be sent back whole.
        message = message if len(message) <= _MAX_MESSAGE_LENGTH else f"{message[:_MAX_MESSAGE_LENGTH]} ..."
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def __reduce__(self) -> tuple[type["HTTPError"], tuple[int, str, dict[str, str]]]:
        return HTTPError, (self.status, self.message, self.headers)

    def response(self) -> JSONResponse:
        """Return the JSON response with `error`, the message, and `kind`."""
        return JSONResponse({"error": self.message, "kind": self.kind}, self.status, self.headers)

    @property
    def kind(self) -> ErrorKind:
        """The kind of error of this status."""
        return _KINDS.get(self.status, ErrorKind.INTERNAL if self.status >= 500 else ErrorKind.MALFORMED)


def http_error(
    status: int, required: str, got: object, next_step: str = "", headers: Mapping[str, str] | None = None
) -> HTTPError:
    """Return an HTTPError with the message of `invalid`: what was required, what came, the next step."""
    return HTTPError(status, str(invalid(required, got, next_step=next_step)), headers)


def too_many_requests(got: str, retry_after: int = 1) -> HTTPError:
    """Return a 429 error with a `Retry-After` header."""
    step = f"try again in {retry_after} second{'s' * (retry_after != 1)}"
    return http_error(429, "free capacity", got, step, {"Retry-After": str(retry_after)})
