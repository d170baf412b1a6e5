"""Networks that are not of the zoo: the record from which a module is built again, and its wrapper."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reslab.nn.checkpoints.safetensors_io import read_tensors, unwrap_model
from reslab.nn.dense import DenseNetwork
from reslab.nn.metadata import ModelMetadata
from reslab.nn.network import ResidualNetwork
from reslab.spec.dense import DenseArch
from reslab.spec.errors import invalid, unknown_name

_SIZE_ARGUMENTS = {"num_classes": ("num_classes",), "in_channels": ("in_channels", "in_chans")}

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class ModuleFactory:
    """The builder of a module (`mypackage.mymodule:factory`, `timm/NAME`, `torchvision/NAME`) and its `arguments`.

    `function` is the factory itself where the user gave it in Python.
    """

    reference: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., nn.Module] | None = None

    @property
    def library(self) -> str:
        """`timm` or `torchvision`; empty for the user's own code."""
        library, slash, _ = self.reference.partition("/")
        return library if slash and library in LIBRARIES else ""

    @property
    def name(self) -> str:
        """The short name: that of the function, or of the library's model."""
        return self.reference.rpartition("/" if self.library else ":")[2]

    def with_arguments(self, arguments: Mapping[str, Any]) -> "ModuleFactory":
        """Return the factory with further arguments; text is read as JSON where it is some (`3`, `true`, `[1, 2]`)."""
        values = {key: _parse_argument(value) for key, value in arguments.items()}
        return ModuleFactory(self.reference, {**self.arguments, **values}, self.function)

    def for_data(self, num_classes: int, in_channels: int) -> "ModuleFactory":
        """Return the factory with the classes and channels of the data, for those that it takes and were not given."""
        accepted = self._accepted_names()
        sizes: dict[str, Any] = {}
        for axis, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            names = [name for name in _SIZE_ARGUMENTS[axis] if name in accepted]
            if names and not set(_SIZE_ARGUMENTS[axis]) & set(self.arguments):
                sizes[names[0]] = value
        return ModuleFactory(self.reference, {**sizes, **self.arguments}, self.function)

    def _accepted_names(self) -> set[str]:
        if self.library:
            return {"num_classes", "in_chans"} if self.library == "timm" else {"num_classes"}
        try:
            parameters = inspect.signature(self.resolve()).parameters.values()
        except (TypeError, ValueError):  # a callable written in C has no signature
            return set()
        return {item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}

    def resolve(self) -> Callable[..., nn.Module]:
        """Import and return the user's function. Raises ValueError if module or name do not exist."""
        if self.function is not None:
            return self.function
        return import_factory(self.reference)

    def build(self) -> nn.Module:
        """Build the module. Raises ValueError for an error of the user's code, and if it returns something else."""
        if self.library:
            return build_library_model(self.reference, self.arguments)
        function = self.resolve()
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        try:
            module = function(**self.arguments)
        except Exception as error:
            required = f"{self.reference}({arguments}) that returns a torch.nn.Module"
            step = "arguments of the factory are set with --set model.NAME=VALUE"
            raise invalid(required, f"{type(error).__name__}: {error}", next_step=step) from error
        if not isinstance(module, nn.Module):
            raise invalid(f"a torch.nn.Module from {self.reference}", f"a {type(module).__name__}")
        return module

    def to_dict(self) -> dict[str, Any] | None:
        """Return what a file records; None if the factory cannot be imported by name or has arguments beyond JSON."""
        module, _, name = self.reference.partition(":")
        if not self.library and ("<" in name or module == "__main__"):
            return None
        try:
            arguments = json.loads(json.dumps(dict(self.arguments)))
        except (TypeError, ValueError):
            return None
        return {"factory": self.reference, "arguments": arguments}


def as_factory(model: Any) -> ModuleFactory | None:
    """Return the factory that a text (`timm/NAME`, `package.module:function`) or a function names; else None.

    A class of modules is a factory, and so is a `functools.partial` with keyword arguments.
    """
    if isinstance(model, ModuleFactory):
        return model
    if isinstance(model, str):
        library, slash, name = model.partition("/")
        is_library = bool(slash and name) and library in LIBRARIES and not Path(model).exists()
        return ModuleFactory(model) if is_library or is_factory_reference(model) else None
    function, arguments = model, {}
    if isinstance(model, partial) and not model.args:
        function, arguments = model.func, dict(model.keywords)
    if isinstance(model, nn.Module) or not callable(function):
        return None
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return ModuleFactory(f"{getattr(function, '__module__', '__main__')}:{name}", arguments, function)


def is_factory_reference(text: str) -> bool:
    """Return whether the text has the form `package.module:function`."""
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts) and not Path(text).exists()


def library_input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return the input (C, H, W) that timm records for its model; torchvision's are for 3x224x224."""
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, dict) else None
    return (3, 224, 224) if not size else (int(size[0]), int(size[1]), int(size[2]))


def build_library_model(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return `torchvision/NAME` or `timm/NAME`, built with these arguments; without `pretrained`, of random weights.

    Raises ValueError for an unknown name or argument; ModuleNotFoundError if timm is not installed.
    """
    library, _, model = name.partition("/")
    names = _library_models(library)
    base = model.partition(".")[0] if library == "timm" else model
    if base not in names:
        raise unknown_name(f"model of {library}", model, names)
    try:
        if library == "torchvision":
            import torchvision

            built: nn.Module = torchvision.models.get_model(model, **{"weights": None, **arguments})
            return built
        import timm

        built = timm.create_model(model, **arguments)
        return built
    except (TypeError, AssertionError) as error:
        raise invalid(f"arguments that {name} takes", str(error)) from error


def _library_models(library: str) -> list[str]:
    if library == "torchvision":
        import torchvision

        return torchvision.models.list_models(module=torchvision.models)
    import timm

    names: list[str] = timm.list_models()
    return names


def import_factory(reference: str) -> Callable[..., nn.Module]:
    """Import `package.module:function`, also from the current folder. Raises ValueError, naming what is missing."""
    module_name, _, name = reference.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # as `python -m` does, so that a file beside the data is found
    importlib.invalidate_caches()
    try:
        value: Any = importlib.import_module(module_name)
    except Exception as error:
        step = f"run the command where {module_name.partition('.')[0]} can be imported, or set PYTHONPATH"
        got = f"{type(error).__name__}: {error}"
        raise invalid(f"the module {module_name} of {reference}", got, next_step=step) from error
    for part in name.split("."):
        if not hasattr(value, part):
            names = [item for item in vars(value) if callable(getattr(value, item)) and not item.startswith("_")]
            raise unknown_name(f"function of {module_name}", name, names)
        value = getattr(value, part)
    if not callable(value):
        raise invalid(f"a function or class as {reference}", f"a {type(value).__name__}")
    factory: Callable[..., nn.Module] = value
    return factory


def _parse_argument(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(value, value)


@dataclass(frozen=True)
class ModuleArch:
    """The description of a network that is not of the zoo: name, input (C, H, W) and number of classes."""

    name: str
    num_classes: int
    in_channels: int = 3
    image_size: tuple[int, int] = (224, 224)
    reference: str = ""
    dims: int = 2

    @property
    def height_width(self) -> tuple[int, int]:
        """The size of the images, under the name that the architectures of the zoo have for it."""
        return self.image_size

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.in_channels, *self.image_size)


class ModuleNetwork(nn.Module, ModelMetadata):
    """A user's or library's module as a network of the tools: `module(x)`, with classes, preprocessing, temperature.

    `factory` builds the module again, if that is known.
    """

    arch: ModuleArch

    def __init__(self, module: nn.Module, arch: ModuleArch, factory: ModuleFactory | None = None) -> None:
        super().__init__()
        self.module, self.arch, self.factory = module, arch, factory

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x)
        return logits


class GraphModel(ModelMetadata):
    """An exported graph, `.onnx`, `.pt2` or `.xml`, as a model; `precision` is that of the export.

    Of a detector, `detector` is its architecture, which the selection of boxes needs.
    """

    arch: ModuleArch

    def __init__(
        self, path: Path, arch: ModuleArch, precision: str = "float32", detector: DenseArch | None = None
    ) -> None:
        self.path, self.arch, self.precision, self.detector = path, arch, precision, detector


Network = ResidualNetwork | ModuleNetwork
"""A network that has one output for each image."""
AnyNetwork = Network | DenseNetwork
"""A network whose modules are known."""
Model = AnyNetwork | GraphModel
"""Anything that predicts."""


def load_module_weights(module: nn.Module, path: str | Path) -> None:
    """Load a `model.safetensors` into the module, strictly. Raises ValueError if names or shapes differ."""
    tensors = read_tensors(path)
    module = unwrap_model(module)
    own = module.state_dict()
    differing = [
        name
        for name in {**own, **tensors}
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]
    if differing:
        name = differing[0]
        required = f"a {type(module).__name__} with the tensors of {path}"
        shapes = f"{_shape(own, name)}, in the file {_shape(tensors, name)}"
        got = f"{len(differing)} that differ, such as {name!r}: {shapes}"
        raise invalid(required, got, next_step="build it with the arguments it was trained with")
    module.load_state_dict(tensors)


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "missing"


@torch.no_grad()
def count_outputs(module: nn.Module, input_size: tuple[int, ...]) -> int:
    """Return the number of logits for an input (C, H, W), measured on zeros. Raises ValueError unless they are N K."""
    was_training = module.training
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        output = module.eval()(torch.zeros(2, *input_size, device=device))
    except Exception as error:
        required = f"a network that takes images of {'x'.join(map(str, input_size))}"
        raise invalid(required, f"{type(error).__name__}: {error}", next_step="name its size: --input CxHxW") from error
    finally:
        module.train(was_training)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise invalid("a network whose output is one row of logits per image", got)
    return output.shape[1]
