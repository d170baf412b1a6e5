"""Tables of names that plugins extend, and the plugins: modules of users that register names of their own.

A plugin is a module named by the user (`--plugin my_module`, `load_plugins("my_module")`) or an entry point of the
group `reslab` of an installed package. A saved file names the plugins it needs; opening it imports none of them.
"""

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from reslab.spec.errors import invalid, nearest

T = TypeVar("T")
GROUP = "reslab"
_NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*$")
# A digit at the end of an operation would be its size (`maxpool3`).
_WORD_OF_GRAMMAR = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?<!\d)$")
_WORD_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_loading: list[str] = []


class Table(dict[str, T]):
    """The values of one kind by name: the built-in ones, and those that plugins registered.

    `plugin_of` holds the plugin of each registered name. `is_saved`: a saved network or recipe refers to these names,
    so that opening it needs the plugin; an architecture or a recipe is saved with all its values instead.
    """

    def __init__(
        self, kind: str, builtin: Mapping[str, T], is_saved: bool = True, is_word_of_grammar: bool = False
    ) -> None:
        super().__init__(builtin)
        self.kind, self.is_saved = kind, is_saved
        self._pattern = _WORD_OF_GRAMMAR if is_word_of_grammar else _NAME_PATTERN
        self.plugin_of: dict[str, str] = {}
        TABLES.append(self)

    def register(self, name: str, value: T, source: object = None) -> None:
        """Add a value under a name; an equal value, or one of the same `source` function, may come again.

        Raises ValueError for a name that is no word of the grammar, is built in, or has another value.
        """
        if not self._pattern.match(name):
            required = f"a name of a {self.kind} of letters, digits and -"
            required += ", without a digit at its end" if self._pattern is _WORD_OF_GRAMMAR else ""
            raise invalid(required, repr(name), "'my-name'")
        if name in self and name not in self.plugin_of:
            raise invalid(f"a new name for a {self.kind}", f"{name!r}, which is built in", f"'my-{name}'")
        if name in self and not self._is_same(name, value, source):
            got = f"{name!r}, which the plugin {self.plugin_of[name]} has registered"
            raise invalid(f"a new name for a {self.kind}", got, f"'my-{name}'")
        self.plugin_of[name] = _current_plugin()
        self[name] = value
        _sources[self.kind, name] = source

    def _is_same(self, name: str, value: T, source: object) -> bool:
        if source is None:
            return self[name] == value
        return _sources.get((self.kind, name)) is source


TABLES: list[Table[Any]] = []
_sources: dict[tuple[str, str], object] = {}


def _current_plugin() -> str:
    """Return the plugin that is being loaded, else the module that is registering."""
    if _loading:
        return _loading[-1]
    name = _calling_module(sys._getframe(1))
    if name == "__main__":  # a script, which can be named as the module of its file
        return Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
    return name


def _calling_module(frame: FrameType | None) -> str:
    while frame is not None and _module_name(frame).partition(".")[0] == GROUP:
        frame = frame.f_back
    return _module_name(frame) if frame is not None else "__main__"


def _module_name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def load_plugins(*names: str, entry_point_group: str = GROUP) -> tuple[str, ...]:
    """Import the modules of these names, and the entry points of the group `reslab`; return the names of all.

    A module in the current folder is found too. Raises ValueError for a module that does not exist or cannot be
    imported.
    """
    from importlib.metadata import entry_points  # here, because it is slow to import

    loaded = []
    for entry_point in entry_points(group=entry_point_group):
        with _as_plugin(entry_point.value.partition(":")[0]) as name:
            entry_point.load()
            loaded.append(name)
    for name in names:
        if name.endswith(".py") or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            nearest_name = Path(name).stem if name.endswith(".py") else ""
            raise invalid("a plugin as the name of a module", repr(name), nearest_name)
        with _as_plugin(name):
            _import_module(name)
            loaded.append(name)
    return tuple(dict.fromkeys(loaded))


def _import_module(name: str) -> None:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        known = nearest(name, (path.stem for path in Path(here).glob("*.py")), 1)
        step = "install it, or run in the folder of its file"
        raise invalid(f"a module {name}", "none of that name", known[0] if known else "", step) from None
    finally:
        sys.path.remove(here)


@contextmanager
def _as_plugin(name: str) -> Iterator[str]:
    _loading.append(name)
    try:
        yield name
    except (ImportError, SyntaxError, AttributeError) as error:
        raise invalid(f"a plugin {name} that can be imported", f"{type(error).__name__}: {error}") from error
    finally:
        _loading.pop()


def required_plugins(*values: Any) -> dict[str, list[str]]:
    """Return the plugins whose registered names occur in these values, each with these names.

    `values` are plain data as of `reslab.spec.config.to_dict`: every text in them is searched for words.
    """
    registered = {name: plugin for table in TABLES if table.is_saved for name, plugin in table.plugin_of.items()}
    required: dict[str, list[str]] = {}
    for word in sorted({word for value in values for text in _texts(value) for word in _WORD_PATTERN.findall(text)}):
        # `ghost3/2` and `ghost3`: the grammar allows a size after the name.
        name = word if word in registered else word.rstrip("0123456789.")
        if name in registered and name not in required.get(registered[name], ()):
            required.setdefault(registered[name], []).append(name)
    return required


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("reference", "notes"):
                yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def check_plugins(required: Mapping[str, Any] | None, source: object) -> None:
    """Raise ValueError, with the plugin to name, if a file needs names that no loaded plugin has registered."""
    known = {name for table in TABLES for name in table.plugin_of}
    for plugin, names in (required or {}).items():
        missing = [str(name) for name in names if name not in known] if isinstance(names, list) else []
        if missing:
            step = f"add --plugin {plugin}, or call reslab.load_plugins({plugin!r}) first, if you trust that module"
            raise invalid(
                f"the plugin {plugin} for {', '.join(missing)} of {source}", "it is not loaded", next_step=step
            )
