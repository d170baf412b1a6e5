"""How far a long measurement has come: told to whoever listens, and to nobody where nobody does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """What is measured inside the block tells `listener` its cost beforehand and how far it is, in words."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(words: str) -> None:
    """Say `words` to whoever listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(words)
