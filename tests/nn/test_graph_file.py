"""Files of programs: what runs code, touches files or fills the memory is refused before torch opens the file."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from reslab.nn.graph_file import is_allowed_operator, is_allowed_size, load_program, save_program

assert torchvision  # registers its operators


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Program:
    """The entries of a saved program, which a test changes."""

    def __init__(self, folder: Path) -> None:
        self.path, self.module = folder / "model.pt2", Classifier().eval()
        save_program(self.module, (3, 2, 2), self.path)
        with zipfile.ZipFile(self.path) as archive:
            self.entries = [(name, archive.read(name)) for name in archive.namelist()]
        ((self.graph_name, content),) = (entry for entry in self.entries if entry[0].endswith("models/model.json"))
        self.graph = json.loads(content)

    def write(self, *more: tuple[str, bytes]) -> Path:
        changed = json.dumps(self.graph).encode()
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, content in (*self.entries, *more):
                archive.writestr(name, changed if (name, content) == (self.graph_name, content) else content)
        return self.path


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def _nodes(program: Program) -> Any:
    return program.graph["graph_module"]["graph"]["nodes"]


def write_a_file(program: Program, touched: Path) -> None:
    values = {"filename": {"as_string": str(touched)}, "shared": {"as_bool": True}, "size": {"as_int": 12}}
    _nodes(program)[0]["target"] = "torch.ops.aten.from_file.default"
    _nodes(program)[0]["inputs"] = [{"name": name, "arg": arg, "kind": 1} for name, arg in values.items()]


def name_with_code(program: Program, touched: Path) -> None:
    program.graph = json.loads(json.dumps(program.graph).replace('"x"', json.dumps(f"x=open({str(touched)!r}, 'w')")))


def text_as_input(program: Program, touched: Path) -> None:
    code = f"' or open({str(touched)!r}, 'w') or '"
    signature = program.graph["graph_module"]["signature"]["input_specs"]
    signature.append({"user_input": {"arg": {"as_string": code}}})
    program.graph["graph_module"]["graph"]["inputs"].append({"as_string": code})


def key_of_the_input(program: Program, touched: Path) -> None:
    call = program.graph["graph_module"]["module_call_graph"][0]["signature"]
    call["in_spec"] = call["in_spec"].replace('"context": "[]"', '"context": "[\\"x\\"]"')


def endless_size(program: Program, touched: Path) -> None:
    (batch,) = program.graph["range_constraints"]
    program.graph = json.loads(json.dumps(program.graph).replace(json.dumps(batch), '"9**9**9**9"'))


CHANGES = {
    "calls 'torch.ops.aten.from_file.default'": write_a_file,
    "has the name .x=open": name_with_code,
    "other inputs than one tensor": text_as_input,
    "has the in_spec": key_of_the_input,
    r"has the size '9\*\*9": endless_size,
}


@pytest.mark.parametrize("problem", CHANGES)
def test_a_program_that_does_more_than_arithmetic_is_refused(program: Program, tmp_path: Path, problem: str) -> None:
    change: Callable[[Program, Path], None] = CHANGES[problem]
    change(program, tmp_path / "touched")
    with pytest.raises(ValueError, match=f"a torch.export program of tensors and operators.*{problem}"):
        load_program(program.write())
    assert not (tmp_path / "touched").exists()


def test_the_guards_of_a_program_are_not_run(program: Program, tmp_path: Path) -> None:
    """torch would run their text as Python when the module is made or called."""
    program.graph["guards_code"] = [f"open({str(tmp_path / 'touched')!r}, 'w')"]
    x = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(load_program(program.write())(x), program.module(x).detach())
    assert not (tmp_path / "touched").exists()
    with pytest.raises(Exception, match=r"shape\[2\]|size"):  # torch checks the size of the input without them
        load_program(program.path)(torch.randn(2, 3, 4, 4))


def test_a_duplicate_entry_is_refused(program: Program) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = program.write((program.graph_name, b"{}"))
    with pytest.raises(ValueError, match=r"'models/model\.json' twice"):
        load_program(path)


def test_what_would_be_refused_is_not_written(tmp_path: Path) -> None:
    class Uninitialized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) + torch.empty(12)

    with pytest.raises(ValueError, match=r"it calls 'torch\.ops\.aten\.empty"):
        save_program(Uninitialized(), (3, 2, 2), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


ALLOWED = (
    *(
        "aten.conv2d.default",
        "aten.batch_norm.default",
        "aten.add_.Tensor",
        "aten.gelu.default",
        "aten.div.Tensor_mode",
    ),
    *("aten.arange.start_step", "aten.to.dtype", "aten._to_copy.default", "aten.sym_size.int", "aten.conv2d.padding"),
    *("aten._assert_tensor_metadata.default", "aten.lstm.input", "aten.scaled_dot_product_attention.default"),
    *("prims.convert_element_type.default", "torchvision.nms.default", "higher_order.wrap_with_set_grad_enabled"),
)
REFUSED = (
    *(
        "aten.from_file.default",
        "aten.save.default",
        "aten.warn.default",
        "aten.manual_seed.default",
        "aten.eval.default",
    ),
    *("aten.set_.source_Storage", "aten.empty.memory_format", "aten.resize_.default", "aten.record_stream.default"),
    *("aten.fbgemm_linear_int8_weight.default", "aten.max_pool2d_with_indices_backward.default", "aten._print.default"),
    *("aten.sparse_coo_tensor.indices", "aten.quantized_lstm_cell.default", "aten.conv2d", "aten.nosuch.default"),
    *(
        "torchvision._roi_align_backward.default",
        "image.read_file.default",
        "higher_order.while_loop",
        "prims.empty.default",
    ),
    *("higher_order.call_torchbind", "higher_order.print", "aten.mkldnn_linear.default", "aten.__class__.default"),
)


def test_operators_are_allowed_by_what_they_take() -> None:
    assert [name for name in ALLOWED if not is_allowed_operator(f"torch.ops.{name}")] == []
    assert [name for name in REFUSED if is_allowed_operator(f"torch.ops.{name}")] == []
    for target in ("_operator.add", "_operator.getitem", "torch.sym_max"):
        assert is_allowed_operator(target)
    for target in (
        "_operator.call",
        "_operator.attrgetter",
        "_operator.pow",
        "_operator.lshift",
        "torch.hub.load",
        "math.pow",
    ):
        assert not is_allowed_operator(target)


@pytest.mark.parametrize(
    "text",
    [
        "s77",
        "((s26 - 1)//2) + 1",
        "Max(1, Mod(s0, 4))",
        "Pow(Symbol('s0', integer=True, positive=True), Integer(2))",
        "Mul(Integer(-1), Add(u3, Integer(64)))",
        "s0**2 - 1",
        "True",
    ],
)
def test_formulas_of_sizes_are_allowed(text: str) -> None:
    assert is_allowed_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "(9**4)**4",
        "Pow(Pow(9, 4), 4)",
        "9**s0",
        "Pow(2, 99999999)",
        "s0**s0",
        "9" * 30,
        "+".join(["s0"] * 1000),
        "(" * 500 + "s0" + ")" * 500,
        "__import__('os')",
        "s0.__class__",
        "Symbol('x')",
        "Symbol('s0', integer=__import__('os'))",
        "[s0]",
        "lambda: s0",
        "'s0'",
        "s0 if s0 else 1",
        "",
        7,
        None,
    ],
)
def test_other_texts_are_no_sizes(text: Any) -> None:
    assert not is_allowed_size(text)
