"""multipart/form-data taken apart in memory: nothing is written to a disk, whatever its size."""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from reslab.deploy.server.errors import refused


@dataclass(frozen=True)
class Part:
    """A field of a form: its name and bytes; `is_file` where it came with a file's name."""

    name: str
    content: bytes
    is_file: bool


class _Gathering:
    """What the parser calls while it reads."""

    def __init__(self, max_parts: int) -> None:
        self.max_parts = max_parts
        self.parts: list[Part] = []
        self.ended = False
        self._header, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._content: list[bytes] = []

    def on_part_begin(self) -> None:
        self._headers, self._content = {}, []
        if len(self.parts) >= self.max_parts:
            raise refused(413, f"a form of at most {self.max_parts} fields", "more", "send several requests")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode(errors="replace")
        self.parts.append(Part(name, b"".join(self._content), b"filename" in options))

    def on_end(self) -> None:
        self.ended = True


def read_form(content: bytes, content_type: str, max_parts: int) -> list[Part]:
    """The fields of a form in their order.

    Raises Refused: 400 for one that cannot be read or is cut short, 413 for more than `max_parts` fields.
    """
    _, options = parse_options_header(content_type)
    found = _Gathering(max_parts)
    names = (name for name in dir(found) if name.startswith("on_"))
    try:
        parser = MultipartParser(options[b"boundary"], {name: getattr(found, name) for name in names})  # type: ignore[arg-type]
        parser.write(content)
        parser.finalize()
    except KeyError:
        raise refused(400, "a form with its boundary", repr(content_type[:80]), "with curl: -F image=@FILE") from None
    except FormParserError as error:
        raise refused(400, "a form that can be read", str(error), "with curl: -F image=@FILE") from None
    if not found.ended:
        raise refused(400, "a whole form", f"{len(content)} bytes without its end", "send it again")
    return found.parts
