"""torch.export programs (`.pt2`): make one of a network, and load one without running what a file may hide in it."""

import ast
import contextlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from reslab.runtime.files import atomic_path
from reslab.spec.errors import invalid

# What torch.export.save writes for tensors and operators; other entries hold pickles or machine code, which run.
_ENTRIES = re.compile(
    r"(byteorder|version|archive_format|archive_version|\.data/\w+|extra/.+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/sample_inputs/model\.pt"
    r"|data/constants/(tensor_\d+|model_constants_config\.json))"
)
_NAME = re.compile(r"[\w.-]*")
# Text that torch only keeps (`metadata`) or that stays a text (an argument such as gelu's "tanh"), and what is checked
# elsewhere or not used.
_FREE_TEXT = ("metadata", "as_string", "torch_version", "expr_str", "in_spec", "out_spec", "guards_code")
_INPUT_KINDS = ("parameter", "buffer", "tensor_constant", "user_input")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")

# Arithmetic and comparison of sizes. Not `pow` and shifts, whose results can fill the memory.
_SIZE_OPERATORS = re.compile(
    r"_operator\.(add|sub|mul|neg|pos|floordiv|truediv|mod|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|torch\.sym_(int|float|max|min|not|ite|sqrt)"
)
# They run graphs of the same file, whose operators are checked too. No loops, whose end a file would decide.
_GRAPH_OPERATORS = re.compile(r"torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)")
# torchvision's namespace also has backward kernels, which trust their arguments.
_VISION_OPERATORS = re.compile(
    r"torch\.ops\.torchvision\.(nms|roi_align|roi_pool|ps_roi_align|ps_roi_pool|deform_conv2d)\.default"
)
_TENSOR_OPERATOR = re.compile(r"torch\.ops\.(?P<namespace>aten|prims)\.(?P<name>\w+)\.(?P<overload>\w+)")
# Types of the arguments of arithmetic. Not of these: streams, storages, dictionaries, remote and custom objects.
_ARGUMENT_TYPE = re.compile(r"((Optional|List)\[)*(Tensor|number|int|float|bool|complex|Device|Generator|SymInt)\]*")
# A text may be a choice, never a file (`from_file`, `save`).
_TEXT_ARGUMENTS = re.compile(
    r"approximate|assert_msg|equation|indexing|interpolation|mode|norm|ord|padding|padding_side|pad_mode|reduce"
    r"|rounding_mode|side"
)
# Without a tensor among its arguments, an operator sets a state of the process (`manual_seed`) or makes a new tensor.
_FACTORIES = re.compile(
    r"arange|bartlett_window|blackman_window|eye|fft_fftfreq|fft_rfftfreq|full|hamming_window|hann_window|iota"
    r"|kaiser_window|linspace|logspace|normal|ones|rand|randint|randn|randperm|scalar_tensor"
    r"|sym_constrain_range|sym_constrain_range_for_size|tril_indices|triu_indices|zeros"
)
# These trust their arguments, so that wrong ones read or write memory that is not theirs: kernels of one vendor (whose
# packed weights hold pointers), backward passes and sparse layouts. `empty`, `resize` and `set` show memory as it was.
_REFUSED = re.compile(
    r"(cudnn|miopen|mkldnn|fbgemm|quantized|sparse|segment|empty|new_empty|resize|set|copy_strided)(_|$)"
    r"|.*(backward|sparse|mkldnn|from_file)"
)
# Private operators are such kernels too, but for these, which tracing gives.
_PRIVATE = re.compile(
    r"__and__|__or__|__xor__|_adaptive_avg_pool2d|_adaptive_avg_pool3d|_assert_async|_assert_scalar"
    r"|_assert_tensor_metadata|_is_all_true|_is_any_true|_local_scalar_dense|_log_softmax"
    r"|_native_batch_norm_legit|_native_batch_norm_legit_no_training|_prelu_kernel|_safe_softmax"
    r"|_scaled_dot_product_flash_attention_for_cpu|_shape_as_tensor|_softmax|_to_copy|_unsafe_view"
    r"|_upsample_bicubic2d_aa|_upsample_bilinear2d_aa|_weight_norm"
)

_SIZE_FUNCTIONS = re.compile(r"Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Mul|Add|Integer")
_SIZE_FLAGS = ("positive", "nonnegative", "integer")
_SYMBOL = re.compile(r"[su]\d+")
_SIZE_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod, ast.Pow, ast.USub)
_MAX_SIZE_TEXT, _MAX_SIZE_NUMBER, _MAX_EXPONENT = 2000, 2**63, 4


def check_program_file(path: Path) -> None:
    """Raise ValueError unless opening the file and running its program can do arithmetic alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_program(archive, path)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise
        refuse(path, str(error))
    except (pickle.UnpicklingError, RuntimeError):
        refuse(path, "it has objects other than tensors")


def refuse(path: Path, problem: str) -> NoReturn:
    """Raise the ValueError for a file that is no program of tensors and operators."""
    step = "export the network again, or use a file from a source that you trust"
    raise invalid("a torch.export program of tensors and operators", f"{path} ({problem})", next_step=step)


def check_program(archive: zipfile.ZipFile, path: Path) -> None:
    """Check the entries of an open archive; `path` is for the error."""
    seen = set()
    for name in archive.namelist():
        inner = name.partition("/")[2]
        if inner in seen:  # which of them torch reads is not certain
            refuse(path, f"it has the entry {inner!r} twice")
        seen.add(inner)
        if not _ENTRIES.fullmatch(inner):
            refuse(path, f"it has the entry {inner!r}")
        if inner.endswith("_config.json"):
            _check_payload(json.loads(archive.read(name)), path)
        elif inner.endswith(".pt"):
            torch.load(io.BytesIO(archive.read(name)), weights_only=True)
        elif inner == "models/model.json":
            _check_graph(json.loads(archive.read(name)), path)


def _check_payload(config: Any, path: Path) -> None:
    for name, value in _walk(config):
        if name == "use_pickle" and value is not False:
            refuse(path, "it has pickled objects")


def _check_graph(program: Any, path: Path) -> None:
    _check_input(program["graph_module"], path)
    for size in program["range_constraints"]:
        _check_size(size, path)
    for name, value in _walk({**program, "range_constraints": {}}):
        if name in ("target", "as_operator"):
            if not (isinstance(value, str) and is_allowed_operator(value)):
                refuse(path, f"it calls {value!r}")
        elif name == "expr_str":
            _check_size(value, path)
        elif not _NAME.fullmatch(name):
            refuse(path, f"it has the name {name!r}")
        elif name not in _FREE_TEXT:
            _check_names(value, path)


def _check_names(value: Any, path: Path) -> None:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and not _NAME.fullmatch(item):
            refuse(path, f"it has the name {item!r}")


def _check_size(value: Any, path: Path) -> None:
    if not is_allowed_size(value):
        refuse(path, f"it has the size {value!r}")


def _check_input(graph_module: Any, path: Path) -> None:
    """Check that the program takes one tensor: torch makes Python source of other inputs and their keys."""
    specs = [item for spec in graph_module["signature"]["input_specs"] for item in spec.items()]
    inputs = [value["arg"] for kind, value in specs if kind == "user_input"]
    are_tensors = all(list(value) == ["as_tensor"] for value in (*inputs, *graph_module["graph"]["inputs"]))
    if len(inputs) != 1 or not are_tensors or any(kind not in _INPUT_KINDS for kind, _ in specs):
        refuse(path, "it takes other inputs than one tensor")
    for name, value in _walk(graph_module["module_call_graph"]):
        if name in ("in_spec", "out_spec"):
            for key, item in _walk(json.loads(value)):
                is_known = item in _CONTAINERS if key == "type" else True
                if not is_known or (name == "in_spec" and key == "context" and item not in (None, "null", "[]")):
                    refuse(path, f"it has the {name} {item!r}")


def is_allowed_operator(target: str) -> bool:
    """Return whether an operator of a graph does nothing but arithmetic.

    That are the operators on sizes, and those of torch's tensors whose arguments are tensors, numbers and choices,
    without the kernels that trust their arguments.
    """
    if any(pattern.fullmatch(target) for pattern in (_SIZE_OPERATORS, _GRAPH_OPERATORS, _VISION_OPERATORS)):
        return True
    match = _TENSOR_OPERATOR.fullmatch(target)
    if match is None:
        return False
    name = match["name"]
    if _REFUSED.match(name) or (name.startswith("_") and not _PRIVATE.fullmatch(name)):
        return False
    overload = "" if match["overload"] == "default" else match["overload"]
    schemas = torch._C._jit_get_schemas_for_operator(f"{match['namespace']}::{name}")
    return any(schema.overload_name == overload and _is_arithmetic(name, schema.arguments) for schema in schemas)


def _is_arithmetic(name: str, arguments: list[Any]) -> bool:
    types = {argument.name: str(argument.type) for argument in arguments}
    allowed = all(
        _TEXT_ARGUMENTS.fullmatch(argument)
        if type_name in ("str", "Optional[str]")
        else _ARGUMENT_TYPE.fullmatch(type_name)
        for argument, type_name in types.items()
    )
    return allowed and (bool(_FACTORIES.fullmatch(name)) or any("Tensor" in type_name for type_name in types.values()))


def is_allowed_size(text: Any) -> bool:
    """Return whether the text of a size is a formula of symbols (`s0`) and numbers whose value cannot grow large."""
    if not isinstance(text, str) or len(text) > _MAX_SIZE_TEXT:
        return False
    try:
        return _is_size(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _is_size(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return True
        case ast.Constant(value=int(number)):
            return abs(number) < _MAX_SIZE_NUMBER
        case ast.Name(id=name):
            return bool(_SYMBOL.fullmatch(name))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_size(operand)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _is_power(base, exponent)
        case ast.BinOp(left=left, op=operator, right=right):
            return isinstance(operator, _SIZE_ARITHMETIC) and _is_size(left) and _is_size(right)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords):
            flags = [keyword.arg in _SIZE_FLAGS and isinstance(keyword.value, ast.Constant) for keyword in keywords]
            return bool(_SYMBOL.fullmatch(name)) and all(flags)
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
            return _is_power(base, exponent)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return bool(_SIZE_FUNCTIONS.fullmatch(name)) and all(map(_is_size, args))
    return False


def _is_power(base: ast.AST, exponent: ast.AST) -> bool:
    """Return whether a power is small: a small exponent, and no power in the base (9**9**9 would never end)."""
    numbers = [node.value for node in ast.walk(exponent) if isinstance(node, ast.Constant)]
    is_number = len(numbers) == 1 and isinstance(numbers[0], int) and numbers[0] <= _MAX_EXPONENT and _is_size(exponent)
    has_symbol = any(isinstance(node, ast.Name) and _SYMBOL.fullmatch(node.id) for node in ast.walk(exponent))
    powers = [node for node in ast.walk(base) if isinstance(node, ast.Pow) or getattr(node, "id", "") == "Pow"]
    return is_number and not has_symbol and not powers and _is_size(base)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value of nested JSON, but for what is free text."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending += [inner for key, inner in item.items() if key != "metadata"]
        elif isinstance(item, list):
            pending += item


def export_program(network: nn.Module, input_size: tuple[int, ...], any_size: bool = False) -> ExportedProgram:
    """Return the network in eval mode as a program from float32 (batch, C, H, W) to logits, for any batch >= 1.

    With `any_size` also for any height and width that the network takes.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    x = torch.zeros(2, *input_size, device=device)
    with torch.no_grad(), suppress_warnings():
        sizes = {2: Dim.AUTO, 3: Dim.AUTO} if any_size else {}
        return torch.export.export(network.eval(), (x,), dynamic_shapes=({0: Dim("batch", min=1), **sizes},))


def save_program(network: nn.Module, input_size: tuple[int, ...], path: Path) -> None:
    """Write the program of the network, atomically.

    Raises what torch.export raises for code that it cannot trace, and ValueError for operators that `load_program`
    refuses.
    """
    program = export_program(network, input_size)
    buffer = io.BytesIO()
    with suppress_warnings():
        torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        check_program(archive, path)  # what is refused when it is opened should not be written
    with atomic_path(path) as temp_path:  # by Python: torch's own writer ends the process when the disk is full
        temp_path.write_bytes(buffer.getbuffer())


def load_program(path: Path) -> Callable[[Tensor], Tensor]:
    """Return the function of a program. Raises ValueError for a file with anything but tensors and operators."""
    check_program_file(path)
    with suppress_warnings():
        try:
            module = torch.export.load(path).module(check_guards=False)  # the guards of a file are Python source
        except Exception as error:
            refuse(path, f"{type(error).__name__}: {error}")

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(x)
            return logits

    return forward


@contextlib.contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress the exporters' warnings about their internals, which users cannot act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
