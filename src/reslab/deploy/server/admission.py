"""The limits on the images and bytes of the requests in flight."""

from types import TracebackType

from reslab.deploy.server.errors import too_many_requests


class AdmissionLimiter:
    """Limits the images and bytes of the requests in flight. Used only from the event loop, so it needs no lock."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.num_images = 0
        self.num_bytes = 0

    def admit(self) -> "Admission":
        """Admit a request with one image. Raises HTTPError (429) at the limit."""
        return Admission(self)


class Admission:
    """The images and bytes reserved by one request, released at the end of its `with` block."""

    def __init__(self, limiter: AdmissionLimiter) -> None:
        self.limiter, self.num_images, self.num_bytes = limiter, 0, 0
        self.reserve_images(1)

    def reserve_images(self, count: int) -> None:
        """Reserve more images. Raises HTTPError (429)."""
        if self.limiter.num_images + count > self.limiter.max_images:
            raise too_many_requests(f"{self.limiter.num_images} of at most {self.limiter.max_images} images in flight")
        self.limiter.num_images += count
        self.num_images += count

    def reserve_bytes(self, count: int) -> None:
        """Reserve more bytes. Raises HTTPError (429)."""
        if self.limiter.num_bytes + count > self.limiter.max_bytes:
            raise too_many_requests(f"{self.limiter.num_bytes} of at most {self.limiter.max_bytes} bytes in flight")
        self.limiter.num_bytes += count
        self.num_bytes += count

    def __enter__(self) -> "Admission":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, exc_traceback: TracebackType | None
    ) -> None:
        self.limiter.num_images -= self.num_images
        self.limiter.num_bytes -= self.num_bytes
        self.num_images = self.num_bytes = 0
