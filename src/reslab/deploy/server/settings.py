"""How the service is run: its limits, its backend, its token."""

from dataclasses import dataclass

from reslab.spec.errors import invalid

MEGABYTE = 1 << 20
_POSITIVE_FIELDS = (
    "max_bytes",
    "max_pixels",
    "max_images",
    "max_batch",
    "max_in_flight",
    "num_decode_threads",
    "max_analyses",
    "max_connections",
)


@dataclass(frozen=True)
class ServerSettings:
    """What `reslab serve` may be told.

    `max_bytes` of one request's body; `max_held_bytes` of all bodies that are in memory at once; `max_pixels` of one
    image as its header tells them; `max_images` of one request; `queue`: images that may be in the house at once,
    waiting or worked on, beyond which a request is answered 429; `max_studies` looks inside (heat maps, lesions, blocks)
    of these; `timeout_seconds` until a request is answered 504; `max_connections` open at once, each of which has
    `head_seconds` to say what it wants; `max_batch` images computed together; `num_decoders`
    threads that decode. `token`: what callers must send; `hosts`: the names the service answers to (all where empty).
    Raises ValueError for a limit below 1, and a queue that no full request fits into.
    """

    backend: str = "auto"
    precision: str = "float32"
    device: str = "auto"
    token: str = ""
    allowed_hosts: tuple[str, ...] = ()
    max_bytes: int = 16 * MEGABYTE
    max_bytes_in_flight: int = 256 * MEGABYTE
    max_pixels: int = 50_000_000
    max_images: int = 32
    max_batch: int = 32
    max_in_flight: int = 128
    timeout_seconds: float = 30.0
    num_decode_threads: int = 2
    max_analyses: int = 16
    max_connections: int = 512
    header_timeout_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in _POSITIVE_FIELDS:
            if getattr(self, name) < 1:
                raise invalid(f"{name} of at least 1", getattr(self, name), nearest="1")
        for name, nearest in (("timeout_seconds", "30"), ("header_timeout_seconds", "20")):
            if not getattr(self, name) > 0:
                raise invalid(f"{name} above 0", getattr(self, name), nearest=nearest)
        if self.max_in_flight < self.max_images:
            got = f"max_in_flight {self.max_in_flight}, max_images {self.max_images}"
            raise invalid(
                "a queue that holds the images of one request", got, nearest=f"max_in_flight {self.max_images}"
            )
        if self.max_bytes_in_flight < self.max_bytes:
            got = f"max_bytes_in_flight {self.max_bytes_in_flight}, max_bytes {self.max_bytes}"
            raise invalid("max_bytes_in_flight of at least max_bytes", got, nearest=str(self.max_bytes))
