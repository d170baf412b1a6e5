"""The limits on the images and bytes of the requests in flight."""

from collections import Counter
from types import TracebackType

from reslab.deploy.server.errors import too_many_requests


class AdmissionLimiter:
    """Limits the images and bytes of the requests in flight. Used only from the event loop, so it needs no lock.

    One client may hold `max_client_images` of the images and `max_client_bytes` of the bytes (all of them if 0).
    """

    def __init__(
        self, max_images: int, max_bytes: int, *, max_client_images: int = 0, max_client_bytes: int = 0
    ) -> None:
        self.max_images, self.max_bytes = max_images, max_bytes
        self.max_client_images = max_client_images or max_images
        self.max_client_bytes = max_client_bytes or max_bytes
        self.num_images = 0
        self.num_bytes = 0
        self.num_client_images: Counter[str] = Counter()
        self.num_client_bytes: Counter[str] = Counter()

    def receive(self, client: str = "") -> "Admission":
        """Return the admission of a request that is being received: it holds bytes, but no image yet.

        Raises HTTPError (429) at the limit of images, so that its body need not be sent.
        """
        self.check_images(1, client)
        return Admission(self, client)

    def admit(self, client: str = "") -> "Admission":
        """Admit a request with one image. Raises HTTPError (429) at the limit."""
        admission = Admission(self, client)
        admission.reserve_images(1)
        return admission

    def check_images(self, count: int, client: str) -> None:
        """Raise HTTPError (429) unless there is room for `count` more images of this client."""
        if self.num_images + count > self.max_images:
            raise too_many_requests(f"{self.num_images} of at most {self.max_images} images in flight")
        held = self.num_client_images[client]
        if held + count > self.max_client_images:
            raise too_many_requests(f"{held} of at most {self.max_client_images} images in flight from this client")


class Admission:
    """The images and bytes reserved by one request of a client, released at the end of its `with` block."""

    def __init__(self, limiter: AdmissionLimiter, client: str) -> None:
        self.limiter, self.client, self.num_images, self.num_bytes = limiter, client, 0, 0

    def reserve_images(self, count: int) -> None:
        """Reserve more images. Raises HTTPError (429)."""
        self.limiter.check_images(count, self.client)
        self.limiter.num_images += count
        self.limiter.num_client_images[self.client] += count
        self.num_images += count

    def reserve_bytes(self, count: int) -> None:
        """Reserve more bytes. Raises HTTPError (429)."""
        limiter = self.limiter
        if limiter.num_bytes + count > limiter.max_bytes:
            raise too_many_requests(f"{limiter.num_bytes} of at most {limiter.max_bytes} bytes in flight")
        held = limiter.num_client_bytes[self.client]
        if held + count > limiter.max_client_bytes:
            raise too_many_requests(f"{held} of at most {limiter.max_client_bytes} bytes in flight from this client")
        limiter.num_bytes += count
        limiter.num_client_bytes[self.client] += count
        self.num_bytes += count

    def __enter__(self) -> "Admission":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, exc_traceback: TracebackType | None
    ) -> None:
        limiter = self.limiter
        limiter.num_images -= self.num_images
        limiter.num_bytes -= self.num_bytes
        limiter.num_client_images[self.client] -= self.num_images
        limiter.num_client_bytes[self.client] -= self.num_bytes
        for held in (limiter.num_client_images, limiter.num_client_bytes):
            if not held[self.client]:
                del held[self.client]
        self.num_images = self.num_bytes = 0
