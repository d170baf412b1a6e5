"""torch._dynamo, the tracer of torch.compile, imported only if something is compiled.

torch's optimizers, DistributedDataParallel and tensors on the meta device import it in eager mode, too, although they
need it only to keep functions from being traced (`disable`, `graph_break`). That takes 1.5 to 2 s, most of the start of
a short training.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"
_CACHE = "__dynamo_disable"  # where torch._compile keeps what `disable` returned


class _LazyDynamo(ModuleType):
    """Stands in for torch._dynamo: its two functions have no effect until something asks for another attribute.

    That imports torch._dynamo, to which everything is passed from then on.
    """

    def __init__(self) -> None:
        super().__init__(_NAME)
        self._lock = threading.RLock()
        self._is_active = True
        self._disabled: list[Any] = []

    def disable(self, fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return the function itself."""
        with self._lock:
            if self._is_active and fn is not None:
                self._disabled.append(fn)
                return fn
        return self._load().disable(fn, *args, **kwargs)

    def graph_break(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: without torch._dynamo no function is traced."""
        if not self._is_active:
            self._load().graph_break(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # Tools look for names such as __file__ in every module.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        return getattr(self._load(), name)

    def remove(self) -> None:
        """Take the place of torch._dynamo no longer, so that the next import is the real one."""
        with self._lock:
            self._is_active = False
            if sys.modules.get(_NAME) is self:
                del sys.modules[_NAME]
                del torch._dynamo
            for fn in self._disabled:
                vars(fn).pop(_CACHE, None)
            self._disabled.clear()

    def _load(self) -> ModuleType:
        self.remove()
        return importlib.import_module(_NAME)


@contextlib.contextmanager
def lazy_dynamo() -> Iterator[None]:
    """Inside, what only keeps functions from being traced does not import torch._dynamo; whatever needs it does."""
    if _NAME in sys.modules:
        yield
        return
    module = _LazyDynamo()
    sys.modules[_NAME] = module
    torch._dynamo = module
    try:
        yield
    finally:
        module.remove()
