"""The settings of the server: limits, backend, token."""

import re
from dataclasses import dataclass

from reslab.spec.errors import invalid

MEGABYTE = 1 << 20
_ORIGIN_PATTERN = re.compile(r"https?://[^/\s?#@*]+")
_HEADER_PATTERN = re.compile(r"[A-Za-z0-9-]*")
_POSITIVE_FIELDS = (
    "max_bytes",
    "max_pixels",
    "max_images",
    "max_batch",
    "max_in_flight",
    "num_decode_workers",
    "max_analyses",
    "max_connections",
)


@dataclass(frozen=True)
class ServerSettings:
    """The settings of `reslab serve`.

    `max_bytes`: of one request body. `max_bytes_in_flight`: of all bodies in memory. `max_pixels`: of one image, by its
    header. `max_images`: of one request. `max_in_flight`: images waiting or being computed; beyond it a request gets
    429. `max_client_in_flight`: those of one client (an IPv4 address or an IPv6 network of 64 bits), by default (None)
    three quarters; the same part of the analyses. `client_header`: where a reverse proxy gives the client's address.
    `max_analyses`: analyses (heatmaps, ablations, block details) among them. `timeout_seconds`: until a request
    gets 504. `max_connections`: open connections, each with `header_timeout_seconds` to send a request's header.
    `max_batch`: images computed together. `num_decode_workers`: processes that decode images, each image in at most
    `decode_seconds`. `token`: required of callers. `allowed_hosts`: host names the server answers to, besides IP
    addresses (all if empty). `allowed_origins`: origins, such as https://example.org, whose web pages may send
    requests, besides the server's own.
    `allow_code`: whether the factory that a run of the user's own module records is imported.
    Raises ValueError for a limit below 1 and for limits that a full request does not fit into.
    """

    backend: str = "auto"
    precision: str = "float32"
    device: str = "auto"
    token: str = ""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_bytes: int = 16 * MEGABYTE
    max_bytes_in_flight: int = 256 * MEGABYTE
    max_pixels: int = 50_000_000
    max_images: int = 32
    max_batch: int = 32
    max_in_flight: int = 128
    max_client_in_flight: int | None = None
    client_header: str = ""
    timeout_seconds: float = 30.0
    num_decode_workers: int = 2
    decode_seconds: float = 10.0
    max_analyses: int = 16
    max_connections: int = 512
    header_timeout_seconds: float = 20.0
    allow_code: bool = False

    def __post_init__(self) -> None:
        for name in _POSITIVE_FIELDS:
            if getattr(self, name) < 1:
                raise invalid(f"{name} of at least 1", getattr(self, name), nearest="1")
        for name, nearest in (("timeout_seconds", "30"), ("header_timeout_seconds", "20"), ("decode_seconds", "10")):
            if not getattr(self, name) > 0:
                raise invalid(f"{name} above 0", getattr(self, name), nearest=nearest)
        for origin in self.allowed_origins:
            if not _ORIGIN_PATTERN.fullmatch(origin):
                raise invalid("an origin: scheme, host and port without a path", repr(origin), "https://example.org")
        if self.max_in_flight < self.max_images:
            got = f"max_in_flight {self.max_in_flight}, max_images {self.max_images}"
            raise invalid("max_in_flight of at least max_images", got, nearest=f"max_in_flight {self.max_images}")
        if not self.max_images <= self.client_limit <= self.max_in_flight:
            required = "max_client_in_flight from max_images to max_in_flight"
            got = f"{self.max_client_in_flight}, not from {self.max_images} to {self.max_in_flight}"
            raise invalid(required, got, nearest=str(min(max(self.client_limit, self.max_images), self.max_in_flight)))
        if not _HEADER_PATTERN.fullmatch(self.client_header):
            raise invalid("client_header, the name of a header", repr(self.client_header), nearest="X-Forwarded-For")
        if self.max_bytes_in_flight < self.max_bytes:
            got = f"max_bytes_in_flight {self.max_bytes_in_flight}, max_bytes {self.max_bytes}"
            raise invalid("max_bytes_in_flight of at least max_bytes", got, nearest=str(self.max_bytes))

    @property
    def client_limit(self) -> int:
        """The images in flight that one client may have."""
        if self.max_client_in_flight is not None:
            return self.max_client_in_flight
        return max(self.max_images, self.max_in_flight * 3 // 4)
