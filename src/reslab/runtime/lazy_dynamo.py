"""torch._dynamo, the tracer of torch.compile, imported only if something is compiled.

torch's optimizers and tensors on the meta device import it in eager mode, too, although they need it only to keep
functions from being traced (`disable`, `graph_break`). That takes 1.5 to 2 s, most of the start of a short training.
DistributedDataParallel asks for more and imports it in any case.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Iterator, Sequence
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
        self.__spec__ = importlib.machinery.PathFinder.find_spec(_NAME, torch.__path__)
        assert self.__spec__ is not None
        self.__path__ = list(self.__spec__.submodule_search_locations or ())
        self._lock = threading.RLock()
        self._is_active = True
        self._disabled: list[Any] = []
        self._finder = _SubmoduleFinder(self)

    def install(self) -> None:
        """Take the place of torch._dynamo."""
        sys.modules[_NAME] = self
        sys.meta_path.insert(0, self._finder)
        torch._dynamo = self

    def disable(self, fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return a function of torch itself, which repeats the call later; others are disabled for good."""
        with self._lock:
            if self._is_active and kwargs.get("wrapping") is False:  # from torch._compile
                self._disabled.append(fn)
                return fn
        return self.load().disable(fn, *args, **kwargs)

    def graph_break(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: without torch._dynamo no function is traced."""
        if not self._is_active:
            self.load().graph_break(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # tools look for names such as __file__ in every module
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        return getattr(self.load(), name)

    def remove(self) -> None:
        """Take the place of torch._dynamo no longer, so that the next import is the real one."""
        with self._lock:
            self._is_active = False
            if sys.modules.get(_NAME) is self:
                del sys.modules[_NAME]
                del torch._dynamo
            if self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)
            for fn in self._disabled:
                vars(fn).pop(_CACHE, None)
            self._disabled.clear()

    def load(self) -> ModuleType:
        """Import torch._dynamo."""
        self.remove()
        return importlib.import_module(_NAME)


class _SubmoduleFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of torch._dynamo, so that their import begins with that of torch._dynamo itself."""

    def __init__(self, stand_in: _LazyDynamo) -> None:
        self.stand_in = stand_in

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec that loads the module with torch._dynamo; None for other names, and if there is no such module.

        Nothing is imported.
        """
        spec = None
        if name.startswith(f"{_NAME}."):
            spec = importlib.machinery.PathFinder.find_spec(name, self.stand_in.__path__)
        if spec is None:
            return None
        is_package = spec.submodule_search_locations is not None
        return importlib.machinery.ModuleSpec(name, _SubmoduleLoader(self.stand_in), is_package=is_package)


class _SubmoduleLoader(importlib.abc.Loader):
    """Loads torch._dynamo and then one of its modules, which has mostly been imported with it."""

    def __init__(self, stand_in: _LazyDynamo) -> None:
        self.stand_in = stand_in
        self.spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import the module as without the stand-in."""
        self.stand_in.load()
        module = importlib.import_module(spec.name)
        self.spec = vars(module)["__spec__"]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the spec of the module, which importlib has replaced."""
        vars(module)["__spec__"] = self.spec  # some modules of torch allow only their own attributes to be set


@contextlib.contextmanager
def lazy_dynamo() -> Iterator[None]:
    """Inside, what only keeps functions from being traced does not import torch._dynamo; whatever needs it does."""
    if _NAME in sys.modules:
        yield
        return
    module = _LazyDynamo()
    module.install()
    try:
        yield
    finally:
        module.remove()
