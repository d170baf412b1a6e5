"""Every backend and precision against the network itself, on images it was trained for."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reslab.deploy.backends.registry import BACKENDS, can_compile, choose_backend, open_backend
from reslab.deploy.export.export import export
from reslab.deploy.predictor import build_predictor
from reslab.nn.module_network import Model
from reslab.nn.network import ResidualNetwork
from reslab.runtime import extras
from reslab.runtime.extras import MissingExtraError
from reslab.training.model_source import open_graph

CPU = torch.device("cpu")
EVERY = [(kind.name, precision) for kind in BACKENDS.values() for precision in kind.precisions if precision != "fp16"]


@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_backend_outputs_equal_the_network(network: ResidualNetwork, digits: Tensor, name: str, precision: str) -> None:
    with torch.no_grad():
        expected = network(digits)
    engine = open_backend(network, name, precision, "cpu", calibration_images=digits[:64])
    result = engine(digits)
    assert (engine.name, engine.precision) == (name, precision)
    assert (result.shape, result.dtype) == (expected.shape, torch.float32)
    scale = float(expected.abs().max())
    apart = float((result - expected).abs().max()) / scale
    assert apart < {"float32": 1e-5, "bf16": 0.05, "int8": 0.15}[precision]
    assert precision == "float32" or apart > 1e-6  # it did compute in less
    agreement = float((result.argmax(1) == expected.argmax(1)).float().mean())
    assert agreement >= (1.0 if precision == "float32" else 0.97)


@pytest.mark.parametrize("name", BACKENDS)
def test_any_batch_fits(network: ResidualNetwork, digits: Tensor, name: str) -> None:
    engine = open_backend(network, name, "float32", "cpu")
    whole = engine(digits[:9])
    parts = torch.cat([engine(digits[:1]), engine(digits[1:3]), engine(digits[3:9])])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKENDS)
def test_pixels_are_normalized(network: ResidualNetwork, name: str) -> None:
    preprocess = network.preprocess
    assert preprocess is not None
    pixels = torch.randint(256, (3, *network.arch.input_size), dtype=torch.uint8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocess.mean, preprocess.std))
    engine = open_backend(network, name, "float32", "cpu")
    torch.testing.assert_close(engine(pixels), engine((pixels / 255 - mean) / std), rtol=1e-4, atol=1e-4)


def test_outputs_do_not_change_later(network: ResidualNetwork, digits: Tensor) -> None:
    """A backend that returns its own buffer would overwrite the first output with the second."""
    for name in BACKENDS:
        engine = open_backend(network, name, "float32", "cpu")
        first = engine(digits[:4])
        kept = first.clone()
        engine(digits[4:8])
        assert torch.equal(first, kept), name


def test_pre_activated_networks_run_everywhere() -> None:
    from tests.deploy.export.test_bn_folding import lived

    network = lived("preresnet164_cifar", depths=(1, 1, 1), num_classes=4, image_size=(16, 16))
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = network(x)
    for name in BACKENDS:
        torch.testing.assert_close(open_backend(network, name, device="cpu")(x), expected, rtol=1e-3, atol=1e-3)


def test_a_network_in_training_is_left_as_it_was(network: ResidualNetwork) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in BACKENDS:
        open_backend(network, name, device="cpu")(torch.zeros(1, *network.arch.input_size))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_quickest_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend(CPU) == "openvino"
    assert choose_backend(CPU, num_images=10) == "torch"
    assert choose_backend(CPU, num_images=10_000) == "openvino"
    assert choose_backend(CPU, "int8", num_images=10) == "openvino"
    assert choose_backend(torch.device("cuda")) == "torch"
    hide(monkeypatch, "openvino")
    assert choose_backend(CPU) == "onnxruntime"
    assert choose_backend(CPU, "bf16") == "torch"
    hide(monkeypatch, "openvino", "onnxruntime")
    assert choose_backend(CPU) == "torch"


def test_auto_precision_is_one_the_processor_has(network: ResidualNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    for quick, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr("reslab.deploy.backends.registry.has_fast_bf16", lambda _, quick=quick: quick)
        assert open_backend(network, "torch", "auto", "cpu").precision == expected
        assert open_backend(network, "onnxruntime", "auto", "cpu").precision == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "onxruntime"}, "nearest: 'onnxruntime'"),
        ({"name": "onnxruntime", "precision": "bf16"}, "backends with bf16: torch, openvino"),
        ({"name": "torch", "precision": "int8"}, "onnxruntime, openvino"),
        ({"precision": "bf61"}, "unknown precision 'bf61'"),
        ({"name": "onnxruntime", "precision": "int8"}, "images to measure"),
        (
            {"name": "onnxruntime", "precision": "int8", "calibration_images": torch.zeros(3, 1, 8, 8)},
            "at least 16 images",
        ),
        ({"name": "openvino", "compiled": True}, "compilation with the backend torch"),
    ],
)
def test_mistakes_are_reported(network: ResidualNetwork, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_backend(network, device="cpu", **options)


def test_a_missing_extra_is_reported_with_its_command(
    network: ResidualNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "onnxruntime", "openvino")
    with pytest.raises(MissingExtraError, match=r"without onnxruntime; pip install 'reslab\[onnx\]'"):
        open_backend(network, "onnxruntime", device="cpu")
    with pytest.raises(MissingExtraError, match=r"reslab\[openvino\]"):
        open_backend(network, "openvino", device="cpu")


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = extras.importlib.util.find_spec
    monkeypatch.setattr(
        extras.importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
    )


def test_openvino_is_imported_without_its_telemetry() -> None:
    """In a fresh process: the telemetry module is not loaded; a stub takes its place."""
    import subprocess

    code = (
        "import sys\nfrom reslab.deploy.export.graphs import import_openvino\nimport_openvino()\n"
        "from openvino.tools.ovc import telemetry_utils\nprint(telemetry_utils.tm.__name__)\n"
        "print(any(name.startswith('openvino_telemetry.') for name in sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert process == ["openvino.tools.ovc.telemetry_stub", "False"]


@pytest.mark.skipif(not can_compile(CPU), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=pytest.mark.soak)])
def test_compiled_outputs_equal_eager_outputs(precision: str) -> None:
    """Also for a smaller last batch, and for one image."""
    from tests.deploy.export.test_bn_folding import lived

    network = lived(
        "resnet20_cifar", depths=(1, 1), strides=(1, 2), widths=(16, 32), num_classes=4, image_size=(16, 16)
    )
    plain, compiled = (
        open_backend(network, "torch", precision, "cpu", compiled=expected_value) for expected_value in (False, True)
    )
    assert str(compiled) == f"torch, compiled, {precision}, on cpu"
    x = torch.randn(5, 3, 16, 16)
    for batch in (5, 3, 1):
        expected, result = plain(x[:batch]), compiled(x[:batch])
        scale = float(expected.abs().max())
        assert float((result - expected).abs().max()) <= (1e-5 if precision == "float32" else 2e-2) * scale


def test_without_a_compiler_that_is_reported(network: ResidualNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"a C\+\+ compiler, .* leave out --compile"):
        open_backend(network, "torch", device="cpu", compiled=True)


@pytest.mark.parametrize("is_graph", [False, True])
def test_threads_spin_only_where_nothing_else_runs(
    network: ResidualNetwork, is_graph: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model: Model = (
        open_graph(export(network, "onnx", tmp_path / "network", data="digits", num_images=4).path)
        if is_graph
        else network
    )
    session_class, options = onnxruntime.InferenceSession, []

    def open_session(source: Any, session_options: Any, **kwargs: Any) -> Any:
        options.append(session_options.get_session_config_entry("session.intra_op.allow_spinning"))
        return session_class(source, session_options, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    open_backend(model, "onnxruntime", device="cpu")
    open_backend(model, "onnxruntime", device="cpu", spin_threads=False)
    build_predictor(model, "onnxruntime", device="cpu")
    assert options == ["1", "0", "0"]
