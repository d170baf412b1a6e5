"""The service run by uvicorn, until it is told to stop; what it took it finishes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from PIL import Image

from reslab.deploy.service.app import make_app
from reslab.deploy.service.settings import ServiceSettings
from reslab.training.run import Run

# Idle connections are kept so long; clients that come again find theirs open.
_KEEP_ALIVE_SECONDS = 30
_GRACE_SECONDS = 5.0


def serve_forever(
    runs: Sequence[Run | str | Path], settings: ServiceSettings, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Serve at `host`:`port` until SIGTERM or Ctrl-C; no request is taken then, and all that were taken are answered.

    `say` hears the address once it listens. Raises ValueError as `make_app`, OSError where the port is taken.
    """
    # Pictures are refused by the service's own limit, before Pillow sees them.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, settings.max_pixels)
    config = uvicorn.Config(
        make_app(runs, settings),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.timeout_seconds + _GRACE_SECONDS),
    )
    socket = config.bind_socket()
    told_host = f"[{host}]" if ":" in host else host
    say(f"serving at http://{told_host}:{socket.getsockname()[1]} (Ctrl-C stops it)")
    uvicorn.Server(config).run(sockets=[socket])
