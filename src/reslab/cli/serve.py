"""`reslab serve RUN...`: networks behind HTTP, with a page to look into them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reslab.cli.options import Device, JsonFlag
from reslab.cli.output import echo_err, print_json
from reslab.spec.errors import invalid

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
_TOKEN_VARIABLE = "RESLAB_TOKEN"


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or their model.safetensors.")],
    host: Annotated[str, typer.Option("--host", help="The address to answer at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", help=f"What callers must send as a bearer token. [default: ${_TOKEN_VARIABLE}, else none]"
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="torch, onnxruntime or openvino. [default: what is quick here]")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="float32, bf16, fp16, int8; auto: bf16 where the processor has it.")
    ] = "float32",
    device: Device = "auto",
    max_bytes: Annotated[int, typer.Option("--max-bytes", help="Bytes of one request.")] = 16 << 20,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="Pixels of one picture.")] = 50_000_000,
    max_images: Annotated[int, typer.Option("--max-images", help="Pictures of one request.")] = 32,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Pictures computed together.")] = 32,
    max_in_flight: Annotated[
        int, typer.Option("--max-in-flight", help="Pictures in the house at once; more is answered 429.")
    ] = 128,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout-seconds", help="After which a request is answered 504.")
    ] = 30.0,
    as_json: JsonFlag = False,
) -> None:
    """Serve networks over HTTP: predictions, heat maps, units switched off, and a page for all of it at /."""
    from reslab.deploy.extras import require_extra

    require_extra("serve", "reslab serve")
    from reslab.deploy.server.settings import ServerSettings

    settings = ServerSettings(
        backend=backend,
        precision=precision,
        device=device,
        token=os.environ.get(_TOKEN_VARIABLE, "") if token is None else token,
        allowed_hosts=LOOPBACK_HOSTS if host in LOOPBACK_HOSTS else (),
        max_bytes=max_bytes,
        max_bytes_in_flight=max(16 * max_bytes, 256 << 20),
        max_pixels=max_pixels,
        max_images=max_images,
        max_batch=max_batch,
        max_in_flight=max_in_flight,
        timeout_seconds=timeout_seconds,
    )
    _check_token(token, host, settings.token)
    from reslab.deploy.server.app import serve_forever

    def on_ready(address: str, models: Sequence[str]) -> None:
        if as_json:
            print_json({"address": address, "models": list(models)})
        echo_err(f"serving {', '.join(models)} at {address} (Ctrl-C stops it)")

    serve_forever(runs, settings, host, port, on_ready)
    echo_err("stopped; what was taken has been answered")


def _check_token(token_option: str | None, host: str, token: str) -> None:
    if token_option is not None and not token_option.strip():
        raise invalid("a token of at least one letter", repr(token_option), next_step="leave --token away for none")
    if host not in LOOPBACK_HOSTS and not token:
        echo_err(f"warning: {host} can be reached from other machines, and no --token is asked for")
