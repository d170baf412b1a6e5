"""A request that is not served: its status, and why, in words."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from reslab.spec.errors import invalid

_MAX_MESSAGE_LENGTH = 2000


class HTTPError(Exception):
    """An answer that is no success: `status` and what the caller is told."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        # What came is told in a refusal; a caller who sends a name of a megabyte does not get it back.
        message = message if len(message) <= _MAX_MESSAGE_LENGTH else f"{message[:_MAX_MESSAGE_LENGTH]} ..."
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def response(self) -> JSONResponse:
        """`{"error": message}` under the status."""
        return JSONResponse({"error": self.message}, self.status, self.headers)


def http_error(
    status: int, required: str, got: object, next_step: str = "", headers: Mapping[str, str] | None = None
) -> HTTPError:
    """A refusal in the words of `spec.errors.refuse`: what was required, what came, what next."""
    return HTTPError(status, str(invalid(required, got, next_step=next_step)), headers)


def too_many_requests(got: str, retry_after: int = 1) -> HTTPError:
    """429: no room now; the caller may come again after so many seconds."""
    step = f"try again in {retry_after} second{'s' * (retry_after != 1)}"
    return http_error(429, "room for one more image", got, step, {"Retry-After": str(retry_after)})
