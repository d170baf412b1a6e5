"""Where progress goes when nobody said: into the notebook's cell, else to the log of the program."""

import html
import logging
from collections.abc import Callable
from typing import Any

_LOGGER = logging.getLogger("reslab")


def default_show() -> Callable[[dict[str, Any]], None]:
    """A receiver of lines: one changing line in a notebook, `logging.getLogger("reslab")` elsewhere."""
    return _notebook_show() or _log


def _log(line: dict[str, Any]) -> None:
    if line["kind"] != "progress":
        _LOGGER.info("%s", sentence(line))


def _notebook_show() -> Callable[[dict[str, Any]], None] | None:
    try:
        from IPython import get_ipython  # type: ignore[import-not-found]
        from IPython.display import HTML, display  # type: ignore[import-not-found]
    except ImportError:
        return None
    if type(get_ipython()).__name__ != "ZMQInteractiveShell":
        return None
    handle = display(HTML(""), display_id=True)
    last: dict[str, str] = {}

    def show(line: dict[str, Any]) -> None:
        last[line["kind"]] = sentence(line)
        handle.update(HTML("<br>".join(html.escape(text) for text in last.values())))

    return show


def sentence(line: dict[str, Any]) -> str:
    """A line of progress in words."""
    kind = line["kind"]
    if kind == "note":
        return str(line["text"])
    if kind == "start":
        where = f"{line['device']}, {line['precision']}"
        return f"{line['model']} on {line['data']}, {where}: {line['total']:,} steps, into {line['run']}"
    if kind == "progress":
        return f"step {line['step']:,} of {line['total']:,}, {line['seconds']:.0f} s"
    where = f"epoch {line['epoch']:.2f}" if "epoch" in line else f"step {line['step']:,}"
    if kind == "train":
        return (
            f"{where}: loss {line['loss']:.4f}, accuracy {line['top1']:.4f}, {line['images_per_second']:,.0f} images/s"
        )
    if kind == "eval":
        return f"{where}: on {line['split']} loss {line['loss']:.4f}, accuracy {line['top1']:.4f}"
    return f"{where}: " + ", ".join(f"{name} {value}" for name, value in line.items() if name not in ("kind", "step"))
