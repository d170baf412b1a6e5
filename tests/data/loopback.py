"""A local file server that can be set to misbehave."""

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Web:
    """A folder served at `url`; `requests` are those so far. If set to, it ignores ranges, is away for some requests,
    breaks a connection after some bytes, redirects, sends a body without end, or a byte at a time."""

    folder: Path
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    knows_ranges: bool = True
    num_away: int = 0
    breaks: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    is_endless: bool = False
    seconds_per_byte: float = 0.0


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    """A server of the folder, while inside."""
    web = Web(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(web))
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown(), server.server_close(), thread.join()


def _handler(web: Web) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            range_header = self.headers.get("Range", "")
            web.requests.append((self.path, range_header))
            path = web.folder / self.path.split("?")[0].lstrip("/")
            if self.path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[self.path])
                self.end_headers()
            elif web.is_endless:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(bytes(1 << 16))
            elif web.num_away:
                web.num_away -= 1
                self.send_error(503)
            elif not path.is_file():
                self.send_error(404)
            else:
                self._send(path, range_header)

        def _send(self, path: Path, range_header: str) -> None:
            content, status = path.read_bytes(), 200
            if range_header and web.knows_ranges:
                first, last = range_header.removeprefix("bytes=").split("-")
                content, status = content[int(first) : int(last) + 1 if last else None], 206
                if not content:
                    self.send_error(416)
                    return
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            self.end_headers()
            if web.breaks and len(content) > web.breaks[0]:
                content = content[: web.breaks.pop(0)]
            with contextlib.suppress(OSError):  # the reader has heard enough
                step = 1 if web.seconds_per_byte else len(content)
                for start in range(0, len(content), max(1, step)):
                    self.wfile.write(content[start : start + step])
                    time.sleep(web.seconds_per_byte)

        def log_message(self, *words: Any) -> None:
            """Nothing."""

    return Handler
