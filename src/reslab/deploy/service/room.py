"""How much may be in the house at once: pictures in hand, bytes in memory; beyond it one is turned away at the door."""

from types import TracebackType

from reslab.deploy.server.errors import busy


class Room:
    """Counts the pictures and bytes of the requests in hand. Used from the event loop alone, so it needs no lock."""

    def __init__(self, max_pictures: int, max_bytes: int) -> None:
        self.max_pictures, self.max_bytes = max_pictures, max_bytes
        self.num_pictures = 0
        self.num_bytes = 0

    def enter(self) -> "Ticket":
        """A place for a request and its first picture. Raises Refused (429) where there is none."""
        return Ticket(self)


class Ticket:
    """The places that one request holds; all are given back when its `with` block ends."""

    def __init__(self, room: Room) -> None:
        self.room, self.num_pictures, self.num_bytes = room, 0, 0
        self.take_pictures(1)

    def take_pictures(self, number: int) -> None:
        """Places for so many pictures. Raises Refused (429)."""
        if self.room.num_pictures + number > self.room.max_pictures:
            raise busy(f"{self.room.num_pictures} pictures in hand of at most {self.room.max_pictures}")
        self.room.num_pictures += number
        self.num_pictures += number

    def take_bytes(self, number: int) -> None:
        """Memory for so many more bytes. Raises Refused (429)."""
        if self.room.num_bytes + number > self.room.max_bytes:
            raise busy(f"{self.room.num_bytes} bytes in hand of at most {self.room.max_bytes}")
        self.room.num_bytes += number
        self.num_bytes += number

    def __enter__(self) -> "Ticket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.room.num_pictures -= self.num_pictures
        self.room.num_bytes -= self.num_bytes
        self.num_pictures = self.num_bytes = 0
