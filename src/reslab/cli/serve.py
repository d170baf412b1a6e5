"""`reslab serve`: serve networks over HTTP, with a page to explore them."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslab.cli.option_groups import MODEL_HELP, MODEL_METAVAR, ModelOptions
from reslab.cli.options import (
    Device,
    InferenceBackend,
    InferencePrecision,
    JsonFlag,
    Panel,
)
from reslab.cli.output import echo_err, print_json
from reslab.deploy.examples import example_runs
from reslab.deploy.server.settings import ServerSettings
from reslab.runtime.extras import require_extra
from reslab.spec.errors import invalid
from reslab.training.model_forms import check_model_source

if TYPE_CHECKING:
    from reslab.deploy.server.model_handle import ServedModel
    from reslab.training.run import Run

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
_ANY_ADDRESSES = ("0.0.0.0", "::", "")
_TOKEN_VARIABLE = "RESLAB_TOKEN"


@dataclass(frozen=True)
class RequestLimits:
    """The limits of requests, by the names of `ServerSettings`."""

    max_bytes: Annotated[
        int,
        typer.Option(
            "--max-bytes",
            metavar="INTEGER",
            rich_help_panel=Panel.LIMITS,
            help="Maximum bytes per request.",
            show_default="16777216, 16 MiB",
        ),
    ] = 16 << 20
    max_pixels: Annotated[
        int,
        typer.Option("--max-pixels", metavar="INTEGER", rich_help_panel=Panel.LIMITS, help="Maximum pixels per image."),
    ] = 50_000_000
    max_images: Annotated[
        int,
        typer.Option(
            "--max-images", metavar="INTEGER", rich_help_panel=Panel.LIMITS, help="Maximum images per request."
        ),
    ] = 32
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="INTEGER", rich_help_panel=Panel.LIMITS, help="Maximum batch size.")
    ] = 32
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight",
            metavar="INTEGER",
            rich_help_panel=Panel.LIMITS,
            help="Maximum images in flight; further requests get 429.",
        ),
    ] = 128
    max_client_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-client-in-flight",
            metavar="INTEGER",
            rich_help_panel=Panel.LIMITS,
            help="Maximum images in flight from one client address; further requests of it get 429.",
            show_default="three quarters of --max-in-flight",
        ),
    ] = None
    client_header: Annotated[
        str,
        typer.Option(
            "--client-header",
            metavar="NAME",
            rich_help_panel=Panel.LIMITS,
            help="Header in which a reverse proxy gives the client's address, such as X-Forwarded-For. Only behind a "
            "proxy that sets it: clients could send it themselves.",
            show_default="none, the address of the connection",
        ),
    ] = ""
    timeout_seconds: Annotated[
        float,
        typer.Option(
            "--timeout-seconds",
            metavar="FLOAT",
            rich_help_panel=Panel.LIMITS,
            help="Timeout of a request: 408 while its body is read, then 504.",
        ),
    ] = 30.0


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """The address to listen on, and who may send requests."""

    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Address to listen on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option("--port", metavar="INTEGER", min=0, max=65535, help="Port; 0 picks a free one.")
    ] = 8000
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="Bearer token that clients must send.",
            show_default=f"${_TOKEN_VARIABLE}, else none",
        ),
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow a --host that other machines reach without a token.")
    ] = False
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Host name to answer to, such as that of a proxy; repeatable.",
            show_default="this machine's names",
        ),
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Origin whose web pages may send requests, such as https://example.org; repeatable.",
            show_default="the server's own",
        ),
    ] = None

    def check(self) -> str:
        """Return the token, which may be that of the environment. Raises ValueError where one is missing."""
        if self.token is not None and not self.token.strip():
            raise invalid("a token of at least one character", repr(self.token), next_step="leave --token out for none")
        token = os.environ.get(_TOKEN_VARIABLE, "") if self.token is None else self.token
        if _is_loopback(self.host) or token:
            return token
        if not self.insecure:
            required = "a token for a server that other machines reach"
            step = f"add --token TOKEN (or {_TOKEN_VARIABLE}), or --insecure if every machine there may use it"
            raise invalid(required, f"--host {self.host} without one", nearest="--host 127.0.0.1", next_step=step)
        echo_err(f"warning: {self.host} is reachable from other machines, and requests need no token (--insecure)")
        return token


def serve(
    *,
    runs: Annotated[list[str] | None, typer.Argument(metavar=MODEL_METAVAR, help=MODEL_HELP)] = None,
    model: ModelOptions,
    access: AccessOptions,
    backend: InferenceBackend = "auto",
    precision: InferencePrecision = "float32",
    device: Device = "auto",
    limits: RequestLimits,
    as_json: JsonFlag = False,
) -> None:
    """Serve networks over HTTP: predictions, heatmaps and block ablations, with an explorer page at /.

    Without a run, two example networks are served: a residual one for 8x8 digits and its plain twin.
    """
    token = access.check()
    for run in runs or []:
        check_model_source(run)
    require_extra("serve", "reslab serve")
    settings = ServerSettings(
        allow_code=model.allow_code,
        backend=backend,
        precision=precision,
        device=device,
        token=token,
        allowed_hosts=(*_own_hosts(access.host), *(name.lower() for name in access.allow_host or ())),
        allowed_origins=tuple(origin.rstrip("/").lower() for origin in access.allow_origin or ()),
        max_bytes_in_flight=max(16 * limits.max_bytes, 256 << 20),
        **vars(limits),
    )
    _serve(_served_models(runs or [], model), settings, access.host, access.port, as_json)


def _serve(
    models: "list[str | Run | Path | ServedModel]", settings: "ServerSettings", host: str, port: int, as_json: bool
) -> None:
    from reslab.deploy.server.app import serve_forever

    def on_ready(address: str, names: Sequence[str]) -> None:
        if as_json:
            print_json({"address": address, "models": list(names)})
        echo_err(f"serving {', '.join(names)} at {address} (Ctrl-C to stop)")

    serve_forever(models, settings, host, port, on_ready)
    echo_err("stopped; all accepted requests were answered")


def _served_models(runs: list[str], model: ModelOptions) -> "list[str | Run | Path | ServedModel]":
    """Return the models to serve: with --model that network, then the runs; without any, the two examples."""
    if model.model is None:
        if model.weights is not None:
            raise invalid("--model NAME with --weights", f"--weights {model.weights} alone")
        if not runs:
            echo_err("no run given: two example networks, trained on 8x8 digits (reslab serve RUN serves yours)")
            return list(example_runs())
        return list(runs)
    from reslab.deploy.server.model_handle import ServedModel
    from reslab.training.model_source import open_model

    choice, others = model.choose(runs)
    opened = open_model(choice.source, weights=choice.weights, allow_code=choice.allow_code)
    path = choice.run if choice.run.exists() else Path()
    return [ServedModel(opened.arch.name, opened, path), *others]


def _is_loopback(host: str) -> bool:
    try:
        return host in LOOPBACK_HOSTS or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_hosts(host: str) -> tuple[str, ...]:
    """Return the names that requests may be addressed to; IP addresses are always allowed."""
    if _is_loopback(host):
        return LOOPBACK_HOSTS
    names = (socket.gethostname(), socket.getfqdn(), *([] if host in _ANY_ADDRESSES else [host]))
    return (*LOOPBACK_HOSTS, *dict.fromkeys(name.lower() for name in names))
