"""Each kind of model through the commands: zoo, library, module of one's own by factory, exported graph."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from reslab.deploy.export.export import export
from reslab.deploy.predict import predict
from reslab.nn.factory import create_model
from reslab.nn.graph_file import load_program, save_program
from reslab.nn.module_network import ModuleNetwork, as_factory
from reslab.nn.network import ResidualNetwork
from reslab.spec.preprocess import Preprocess
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.model_source import GRAPH_FILE, GraphFallbackWarning, load, open_graph, open_model
from reslab.training.run import Run
from reslab.training.train import train

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(2 * [block]))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.blocks(self.conv(x)).mean((2, 3)))

def broken():
    raise RuntimeError("no weights here")

def number():
    return 3
"""


@pytest.fixture(scope="module")
def code_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    (folder / "own_network.py").write_text(CODE)
    return folder


@pytest.fixture(scope="module")
def own_run(code_folder: Path) -> Run:
    """A run of a module of one's own, trained by the name of its factory."""
    sys.path.insert(0, str(code_folder))
    try:
        options: dict[str, Any] = {"overrides": {"model.width": "6"}, "device": "cpu", "num_images": 64}
        return train("own_network:Net", "digits", epochs=1, output=code_folder / "run", **options)
    finally:
        sys.path.remove(str(code_folder))
        sys.modules.pop("own_network", None)


@pytest.fixture
def importable(code_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(code_folder))
    sys.modules.pop("own_network", None)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def scores(predictions: list[Any]) -> list[list[tuple[str, float]]]:
    return [[(score.name, round(score.probability, 4)) for score in row.classes] for row in predictions]


def test_a_run_records_the_factory_and_its_arguments(own_run: Run) -> None:
    recorded = own_run.metadata["model"]
    assert recorded["factory"] == {"factory": "own_network:Net", "arguments": {"num_classes": 10, "width": 6}}
    assert (recorded["input_size"], recorded["num_classes"], recorded["arch"]) == ([1, 8, 8], 10, None)


@pytest.mark.filterwarnings("ignore::reslab.training.model_source.GraphFallbackWarning")
def test_the_module_its_weights_and_its_graph_predict_the_same(own_run: Run, importable: None, pixels: Tensor) -> None:
    by_graph = predict(own_run, pixels)
    assert "own_network" not in sys.modules  # opening the run imported no code
    by_name = predict("own_network:Net", pixels, weights=own_run)
    by_file = predict("own_network:Net", pixels, weights=own_run.weights_path)
    by_permission = predict(load(own_run, allow_code=True), pixels)
    network = sys.modules["own_network"].Net(width=6)
    by_object = predict(load(network, weights=own_run), pixels)
    assert scores(by_graph) == scores(by_name) == scores(by_file) == scores(by_permission) == scores(by_object)
    with torch.no_grad():  # the independent reference: the module itself, with the recorded normalization
        preprocess = Preprocess(**own_run.metadata["data"]["preprocess"])
        x = (pixels / 255 - preprocess.mean[0]) / preprocess.std[0]
        expected = network.eval()(x).softmax(1)
    for row, probabilities in zip(by_graph, expected, strict=True):
        assert row.classes[0].probability == pytest.approx(float(probabilities.max()), abs=1e-4)


def test_a_file_of_a_custom_module_names_the_code_it_needs(own_run: Run) -> None:
    sys.modules.pop("own_network", None)
    with pytest.raises(ValueError, match=r"own_network:Net.*imports no code.*--model own_network:Net --weights"):
        open_model(own_run.weights_path)
    with pytest.raises(ValueError, match=r"own_network:Net.*--allow-code"):
        export(own_run, "onnx")
    with pytest.warns(GraphFallbackWarning, match="own_network:Net"):
        open_model(own_run)
    assert "own_network" not in sys.modules


def test_other_arguments_are_named(own_run: Run, importable: None) -> None:
    factory = as_factory("own_network:Net")
    assert factory is not None
    with pytest.raises(ValueError, match=r"'conv.weight': \(5, 1, 3, 3\), in the file \(6, 1, 3, 3\)"):
        open_model(factory.with_arguments({"width": 5}), weights=own_run)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("own_network:broken", "RuntimeError: no weights here"),
        ("own_network:number", "got: a int"),
        ("own_network:net", "nearest: 'Net'"),
        ("no_such_package:Net", "ModuleNotFoundError"),
    ],
)
def test_a_factory_that_does_not_work_is_named(importable: None, reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_model(reference, random_weights=True)


@pytest.mark.parametrize("source", ["resnt50", "runs/missing", "missing.onnx"])
def test_an_unknown_model_lists_the_accepted_forms(source: str) -> None:
    with pytest.raises(ValueError, match=r"timm/NAME, torchvision/NAME.*package.module:factory"):
        open_model(source)


def test_a_name_needs_weights() -> None:
    for source in ("resnet50", "torchvision/resnet18"):
        with pytest.raises(ValueError, match="weights for"):
            open_model(source)


def test_evaluation_needs_the_code_and_equals_the_run(own_run: Run, importable: None) -> None:
    with pytest.raises(ValueError, match="--allow-code"):
        evaluate(own_run)
    assert evaluate(own_run, module="own_network:Net").top1 == own_run.main_metric
    assert evaluate(own_run, allow_code=True).top1 == own_run.main_metric


@pytest.mark.soak
def test_a_new_process_predicts(own_run: Run, code_folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(image)
    command = [sys.executable, "-m", "reslab", "predict", "--model", "own_network:Net", "--weights", str(own_run.path)]
    result = subprocess.run([*command, str(image), "--json"], cwd=code_folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    classes = json.loads(result.stdout)["predictions"][0]["classes"]
    expected = predict(open_graph_of(own_run), image)[0].classes
    assert [row["name"] for row in classes] == [score.name for score in expected[: len(classes)]]


def open_graph_of(run: Run) -> Any:
    with pytest.warns(GraphFallbackWarning):
        return open_model(run)


@pytest.mark.parametrize(
    "to", ["torch", pytest.param("onnx", marks=pytest.mark.soak), pytest.param("openvino", marks=pytest.mark.soak)]
)
def test_exports_are_models(own_run: Run, importable: None, tmp_path: Path, pixels: Tensor, to: str) -> None:
    pytest.importorskip({"torch": "torch", "onnx": "onnxscript", "openvino": "openvino"}[to])
    result = export("own_network:Net", to, tmp_path / "own", weights=own_run, num_images=16)
    graph = open_graph(result.path)
    assert (graph.arch.input_size, graph.arch.num_classes) == ((1, 8, 8), 10)
    assert scores(predict(result.path, pixels)) == scores(predict("own_network:Net", pixels, weights=own_run))
    Path(result.report_path).unlink()
    with pytest.raises(ValueError, match=r"report\.json beside the graph"):
        predict(result.path, pixels)


class Opened(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def test_a_graph_with_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    module = Opened().eval()
    save_program(module, (3, 2, 2), path)
    x = torch.randn(5, 3, 2, 2)
    torch.testing.assert_close(load_program(path)(x), module(x).detach())

    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    sample = next(name for name in entries if name.endswith("sample_inputs/model.pt"))
    config = next(name for name in entries if name.endswith("weights_config.json"))
    graph = next(name for name in entries if name.endswith("models/model.json"))
    folder = graph.partition("/")[0]
    changes = {
        "sample": {sample: buffer.getvalue()},
        "weights": {config: entries[config].replace(b'"use_pickle": false', b'"use_pickle": true')},
        "library": {f"{folder}/data/aotinductor/model/model.so": b"code"},
        "operator": {graph: entries[graph].replace(b"torch.ops.aten.linear.default", b"torch.hub.load")},
        "size": {graph: entries[graph].replace(b"Symbol('", b"__import__('")},
    }
    for kind, changed in changes.items():
        bad = tmp_path / f"{kind}.pt2"
        with zipfile.ZipFile(bad, "w") as archive:
            for name, content in {**entries, **changed}.items():
                archive.writestr(name, content)
        with pytest.raises(ValueError, match=r"program of tensors and operators"):
            load_program(bad)
    assert not (tmp_path / "touched").exists()


def test_predict_takes_images_in_memory_with_each_kind_of_model(
    own_run: Run, importable: None, tmp_path: Path, pixels: Tensor
) -> None:
    image = Image.fromarray(pixels[0, 0].numpy())
    image.save(tmp_path / "image.png")
    images = [image, pixels[0], pixels[0, 0].numpy(), (tmp_path / "image.png").read_bytes(), tmp_path / "image.png"]
    zoo = create_model("resnet20_cifar", depths=(1, 1, 1), in_channels=1, num_classes=10, image_size=(8, 8)).eval()
    library = open_model("torchvision/squeezenet1_1", random_weights=True)
    assert isinstance(zoo, ResidualNetwork)
    assert isinstance(library, ModuleNetwork)
    for network in (zoo, library):
        transform = "" if network is zoo else "resize(64) center-crop(64)"
        channels = network.arch.in_channels
        network.set_metadata(preprocess=Preprocess(channels, transform, (0.5,) * channels, (0.5,) * channels))
    own = open_model("own_network:Net", weights=own_run)
    graph = open_graph_of(own_run)
    for model in (zoo, library, own, graph):
        rows = scores(predict(model, images, top_k=2))
        assert len(rows) == 5
        assert all(row == rows[0] for row in rows)


def test_training_leaves_the_module_whole() -> None:
    """A module that repeats one block with a batch norm, and its device, mode and requires_grad."""
    namespace: dict[str, Any] = {}
    exec(CODE, namespace)
    module: nn.Module = namespace["Net"](num_classes=10)
    module.fc.bias.requires_grad_(False)
    run = train(module, "digits", epochs=1, num_images=64, device="cpu", output=None)
    assert run.metadata["model"]["factory"] is None
    assert all(tensor.device.type == "cpu" for tensor in module.state_dict().values())
    assert not module.fc.bias.requires_grad
    assert module.conv.weight.requires_grad
    assert module.blocks[0] is module.blocks[1]
    assert (run.path / GRAPH_FILE).is_file()
    module.train()(torch.randn(4, 1, 8, 8)).sum().backward()
    with pytest.warns(GraphFallbackWarning, match="a factory builds"):
        open_model(run)
