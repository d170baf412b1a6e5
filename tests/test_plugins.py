"""Users' own parts: registered once, they work in sentences, commands, training and saved files."""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from sklearn.metrics import cohen_kappa_score
from torch import Tensor, nn

import reslab
from reslab.analysis.compare import compare_models
from reslab.analysis.open_targets import open_targets
from reslab.analysis.target import EvalBatches, error_value, score_model
from reslab.cli.app import main
from reslab.data.adapters import as_dataset
from reslab.data.registry import FORMATS
from reslab.data.transforms.pipeline import TransformPipeline
from reslab.deploy.server import app
from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import load_network
from reslab.nn.graph_file import load_program
from reslab.nn.merge import MERGE_BUILDERS
from reslab.nn.registry import BUILDERS, CONTEXT
from reslab.nn.shortcut import SHORTCUT_BUILDERS
from reslab.spec.grammar import Param, signature_params
from reslab.spec.operations import OPERATIONS, Family
from reslab.spec.optim import OptimizerConfig, ScheduleConfig
from reslab.spec.order import ORDERS
from reslab.spec.plugins import TABLES, load_plugins
from reslab.spec.preprocess import Preprocess
from reslab.spec.shortcut import MERGE_OPS, SHORTCUTS
from reslab.spec.task import Metric
from reslab.training.losses import build_loss
from reslab.training.optim.factory import build_optimizer
from reslab.training.optim.lr_schedule import lr_factor

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to" / "extend-reslab.md"
CODE = "\n".join(re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture(autouse=True)
def tables_stay() -> Iterator[None]:
    """Forget what a test registers."""
    saved = [(table, dict(table), dict(table.plugin_of)) for table in TABLES]
    yield
    forget(saved)


def forget(saved: list) -> None:
    for table, values, plugin_of in saved:
        table.clear()
        table.update(values)
        table.plugin_of = dict(plugin_of)
    sys.modules.pop("my_plugin", None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the how-to's my_plugin.py in it."""
    (tmp_path / "my_plugin.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    code = main([*arguments, "--json"])
    output = json.loads(capsys.readouterr().out)
    assert code == 0, output
    return output


def test_the_examples_of_the_guide_compute_what_they_claim(folder: Path) -> None:
    load_plugins("my_plugin")
    network = reslab.create_model("shiftnet20", norm="pixel", act="relu-squared").eval()
    block = network.layer2[0]
    x = torch.randn(2, 16, 8, 8)
    y = block.bn1(block.conv1(x)).relu() ** 2
    branch = block.bn2(block.conv2(y)) + 0.5
    shortcut = block.downsample[1](nn.functional.max_pool2d(x, 2))
    torch.testing.assert_close(block(x), (0.6 * shortcut + 0.4 * branch).relu() ** 2)
    separable = reslab.create_model("resnet20_cifar", conv="depthwise(reflect)").layer1[0].conv1
    assert [layer.groups for layer in separable] == [16, 1]
    assert separable[0].padding_mode == "reflect"
    image = torch.rand(3, 4, 4)
    torch.testing.assert_close(TransformPipeline("darken(0.25)").apply_image(image, 0), image * 0.25)
    assert lr_factor(ScheduleConfig("square-root"), 25, 100, 10) == pytest.approx(0.5)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    expected = (logits.softmax(1) - nn.functional.one_hot(labels, 3)).square().sum(1).mean()
    torch.testing.assert_close(build_loss("brier")(logits, labels), expected)
    linear = nn.Linear(2, 2)
    before = linear.weight.detach().clone()
    linear(torch.ones(1, 2)).sum().backward()
    build_optimizer(linear, OptimizerConfig("sign-sgd", lr=0.5)).step()
    torch.testing.assert_close(linear.weight, before - 0.5)


def test_the_example_for_contributors_builds() -> None:
    page = (HOW_TO.parent.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "example"})
    block = reslab.create_model("gated20").layer1[1]
    x = torch.randn(2, 16, 8, 8)
    y = block.bn1(block.conv1(x)).relu()
    branch = getattr(block, "sigmoid-gate1")(block.bn2(block.conv2(y)))
    torch.testing.assert_close(block.eval()(x), (x + block.branch(x)).relu())
    assert branch.min() > 0
    assert branch.max() < 1


def test_a_format_is_opened_and_listed(folder: Path) -> None:
    load_plugins("my_plugin")
    for index in range(10):
        Image.new("RGB", (8, 8), (20 * index, 0, 0)).save(folder / f"{index}.png")
    (folder / "images.pairs").write_text("".join(f"{index}.png {'ab'[index % 2]}\n" for index in range(10)))
    data = reslab.open_dataset(folder / "images.pairs")
    assert data.classes == ("a", "b")
    assert FORMATS.plugin_of == {"pairs": "my_plugin"}
    assert sum(len(split) for split in data.splits.values()) == 10


@pytest.mark.parametrize("arguments", [("--plugin", "my_plugin", "summary"), ("summary", "--plugin=my_plugin")])
def test_a_plugin_is_named_before_or_after_the_command(folder, capsys, arguments) -> None:
    result = run_json(capsys, *arguments, "shiftnet20")
    assert result["block"]["merge"] == "noise(0.1) weighted(0.4)"


def test_runs_and_weights_name_the_plugin_that_they_need(folder, capsys) -> None:
    saved = [(table, dict(table), dict(table.plugin_of)) for table in TABLES]
    arguments = ["train", "digits", "--plugin", "my_plugin", "--model", "shiftnet20", "--recipe", "quick"]
    overrides = [
        "optimizer=sign-sgd",
        "lr=0.001",
        "schedule=square-root",
        "loss=brier",
        "precision=float32",
        "model.depths=1,1,1",
    ]
    for override in overrides:
        arguments += ["--set", override]
    result = run_json(capsys, *arguments, "-o", str(folder / "run"), "--num-images", "64", "--device", "cpu")
    assert result["steps"] == 2
    needed = json.loads((folder / "run" / "run.json").read_text())["plugins"]["my_plugin"]
    assert needed == ["brier", "max-project", "noise", "shifted", "sign-sgd", "square-root", "weighted"]
    assert run_json(capsys, "eval", "run", "--plugin", "my_plugin", "--device", "cpu")["num_samples"] > 0
    forget(saved)
    with pytest.raises(ValueError, match=r"the plugin my_plugin for max-project, .*--plugin my_plugin"):
        load_network(folder / "run" / "model.safetensors")
    assert main(["eval", "run", "--json", "--device", "cpu"]) == 1
    assert "--plugin my_plugin" in json.loads(capsys.readouterr().out)["error"]
    assert "my_plugin" not in sys.modules
    load_plugins("my_plugin")
    assert load_network(folder / "run" / "model.safetensors").arch.merge == "noise(0.1) weighted(0.4)"


def test_parts_of_a_plugin_are_exported_analyzed_and_served(folder, capsys) -> None:
    """One operation (`shift`) and one merge (`weighted`), from weights that name the plugin."""
    saved = [(table, dict(table), dict(table.plugin_of)) for table in TABLES]
    load_plugins("my_plugin")
    axes = {
        "depths": (1, 1, 1),
        "widths": (4, 4, 4),
        "stem": "conv3(4) norm act",
        "in_channels": 1,
        "image_size": (8, 8),
    }
    network = reslab.create_model("shiftnet20", merge="weighted(0.4)", shortcut="project", **axes).eval()
    network.set_metadata(preprocess=Preprocess(1, "", (0.5,), (0.5,)))
    save_weights(folder / "net.safetensors", network)
    images = torch.randn(2, 1, 8, 8)
    expected = network(images).detach()
    for to, suffix in (("safetensors", "safetensors"), ("onnx", "onnx"), ("torch", "pt2")):
        target = folder / "out" / f"net.{suffix}"
        options = ("--plugin", "my_plugin", "--to", to, "-o", str(target), "--data", "digits", "--num-images", "8")
        run_json(capsys, "export", "net.safetensors", *options)
        weights = target / "model.safetensors" if target.is_dir() else target
        assert b"my_plugin" in weights.read_bytes(), "the file names the plugin"
        if to == "torch":  # a graph needs no plugin
            torch.testing.assert_close(load_program(target)(images), expected)
    options = ("--plugin", "my_plugin", "--data", "digits")
    assert run_json(capsys, "analyze", "cost", "net.safetensors", *options)
    forget(saved)
    for command in (
        ("export", "net.safetensors", "--to", "onnx", "--data", "digits"),
        ("analyze", "cost", "net.safetensors", "--data", "digits"),
        ("serve", "net.safetensors"),
    ):
        assert main([*command]) == 1
        assert "--plugin my_plugin" in capsys.readouterr().err


def test_a_network_of_a_named_plugin_is_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = [(table, dict(table), dict(table.plugin_of)) for table in TABLES]
    load_plugins("my_plugin")
    axes = {"depths": (1, 1, 1), "widths": (4, 4, 4), "in_channels": 1, "image_size": (8, 8), "num_classes": 3}
    network = reslab.create_model("shiftnet20", **axes).eval()
    network.set_metadata(classes=("a", "b", "c"), preprocess=Preprocess(1, "", (0.5,), (0.5,)))
    save_weights(folder / "net.safetensors", network)
    Image.fromarray(torch.arange(0, 256, 4, dtype=torch.uint8).view(8, 8).numpy()).save(folder / "image.png")
    with torch.no_grad():
        expected = network(network.preprocess(folder / "image.png")).softmax(1)[0]
    forget(saved)
    responses = []

    def respond(models: list, settings: ServerSettings, *_: object) -> None:
        with TestClient(create_app(models, settings), base_url="http://localhost") as client:
            responses.append(client.post("/v1/predict", content=(folder / "image.png").read_bytes()))

    monkeypatch.setattr(app, "serve_forever", respond)
    assert main(["serve", "net.safetensors", "--plugin", "my_plugin", "--backend", "torch", "--device", "cpu"]) == 0
    assert responses[0].status_code == 200, responses[0].text
    classes = responses[0].json()["predictions"][0]["classes"]
    probabilities = {row["name"]: row["probability"] for row in classes}
    assert [probabilities[name] for name in "abc"] == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_custom_metric_selects_the_weights(folder: Path) -> None:
    load_plugins("my_plugin")
    run = reslab.train("shiftnet20", output="run", recipe="quick", overrides={"duration": "2 epochs"}, val_fraction=0.2)
    evaluation = reslab.evaluate(run, keep_predictions=True)
    expected = cohen_kappa_score(evaluation.labels, evaluation.probabilities.argmax(1))
    assert run.result["kappa"] == evaluation.metrics["kappa"] == pytest.approx(expected)
    best = max((line for line in run.log.records() if line["kind"] == "eval"), key=lambda line: line["kappa"])
    assert run.result["best_step"] == best["step"]
    assert run.main_metric == run.result["kappa"]
    assert "Cohen&#39;s kappa" in run.report_path.read_text()
    (target,) = open_targets([str(run.path)])
    kappa = pytest.approx(run.result["kappa"], abs=1e-6)
    comparison = compare_models([target, target])
    assert [model.score for model in comparison.models] == [kappa, kappa]
    score = score_model(target.model, EvalBatches(target, run.result["split"]))
    assert score.error == pytest.approx(error_value(target.task.spec.selection_metric, run.result["kappa"]))
    with pytest.raises(ValueError, match="a new name for a metric"):
        reslab.register_metric(Metric("top1", "accuracy"))(lambda outputs, targets: 0.0)


def test_a_custom_task_is_trained_and_needs_its_plugin(folder: Path) -> None:
    load_plugins("my_plugin")
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    counts = torch.randint(1, 9, (40,))
    data = as_dataset((images, counts), classes=("cells",), task="counting", val_fraction=0.25)
    run = reslab.train("shiftnet20", data, output="run", recipe="quick", overrides={"duration": "1 epoch"})
    evaluation = reslab.evaluate(run, data, keep_predictions=True)
    assert evaluation.metrics["mae"] == run.result["mae"]
    assert bool((evaluation.predicted > 0).all())
    assert (
        run.metadata["plugins"]["my_plugin"] == ["counting", "quick"]
        or "counting" in run.metadata["plugins"]["my_plugin"]
    )


def test_an_entry_point_is_a_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[reslab]\nmine = my_plugin\n")
    monkeypatch.syspath_prepend(str(folder))
    assert load_plugins() == ("my_plugin",)
    assert ORDERS.plugin_of["shifted"] == "my_plugin"


def test_a_name_is_registered_once() -> None:
    @reslab.register_merge("mean")
    def mean(shortcut: Tensor, branch: Tensor) -> Tensor:
        return (shortcut + branch) / 2

    reslab.register_merge("mean")(mean)
    with pytest.raises(ValueError, match=r"'mean', which the plugin .*test_plugins has registered"):
        reslab.register_merge("mean")(lambda shortcut, branch: branch)
    with pytest.raises(ValueError, match="'add', which is built in"):
        reslab.register_merge("add")(mean)
    with pytest.raises(ValueError, match="without a digit at its end"):
        reslab.register_operation("pool3")(nn.Identity)
    reslab.register_order("again", "conv norm act | conv norm + act")
    reslab.register_order("again", "conv norm act | conv norm + act")
    with pytest.raises(ValueError, match="'again'"):
        reslab.register_order("again", "norm act conv | norm act conv +")
    with pytest.raises(ValueError, match="'resnet50', which is built in"):
        reslab.register_arch("resnet50", reslab.Arch("", "", (1,), (8,), strides=(1,)))


def test_a_signature_becomes_arguments() -> None:
    def function(
        site: object,
        count: int,
        ratio: Annotated[float, Param(low=0, high=1)] = 0.5,
        mode: Literal["a", "b"] = "b",
        size: int | None = None,
    ) -> None:
        pass

    count, ratio, mode, size = signature_params(function, ("site",))
    assert (count.type, count.required) == (int, True)
    assert (ratio.type, ratio.low, ratio.high, ratio.default) == (float, 0, 1, 0.5)
    assert (mode.type, mode.choices, mode.default) == (str, ("a", "b"), "b")
    assert (size.type, size.required, size.default) == (int, False, None)

    def untyped(site, ratio=0.5):
        pass

    with pytest.raises(ValueError, match="type of ratio of untyped"):
        signature_params(untyped, ("site",))


@pytest.mark.parametrize("family", [Family.LAYER, Family.CONV, Family.NORM])
def test_builders_take_the_arguments_of_their_operations(family: Family) -> None:
    """The built-in tables and builders agree, as the decorator makes them agree for users."""
    elsewhere = {"conv", "fc", "none", "custom"}
    for name, operation in OPERATIONS[family].items():
        if name in elsewhere:
            continue
        names = set(inspect.signature(BUILDERS[family][name]).parameters) - set(CONTEXT[family])
        assert names == {param.name for param in operation.params} - set(CONTEXT[family]), name


def test_merges_and_shortcuts_take_the_arguments_of_their_tables() -> None:
    context = ("block", "site", "block_input", "shortcut", "branch")
    for name, operation in MERGE_OPS.items():
        names = [key for key in inspect.signature(MERGE_BUILDERS[name]).parameters if key not in context]
        assert names == [param.name for param in operation.params], name
    for shortcut in SHORTCUTS.values():
        names = inspect.signature(SHORTCUT_BUILDERS[shortcut.builder]).parameters
        assert set(dict(shortcut.args)) <= set(names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module", "a module no_such_module"),
        ("my_plugin.py", "nearest valid: my_plugin"),
        ("broken", "imported"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_an_error(folder: Path, name: str, message: str) -> None:
    (folder / "broken.py").write_text("import no_such_dependency\n")
    with pytest.raises(ValueError, match=message):
        load_plugins(name)


def test_toml_files_are_networks_and_recipes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "small.toml").write_text(
        'base = "resnet20_cifar"\ndepths = [1, 1, 1]\nwidths = [16, 16, 16]\nimage_size = [8, 8]\n'
    )
    (folder / "preact.toml").write_text('base = "small.toml"\norder = "full-preact"\n')
    (folder / "fast.toml").write_text(
        'base = "digits"\nduration = "2 steps"\nlr = 0.01\n[schedule]\nwarmup = "0 steps"\n'
    )
    arch = reslab.create_model("preact.toml").arch
    assert (arch.name, arch.widths, arch.order) == ("preact", (16, 16, 16), "full-preact")
    assert run_json(capsys, "summary", "preact.toml")["block"]["order"].startswith("norm act conv")
    arguments = ["digits", "--model", "preact.toml", "--recipe", "fast.toml", "-o", "run", "--num-images", "64"]
    run_json(capsys, "train", *arguments, "--set", "precision=float32", "--device", "cpu")
    recorded = json.loads((folder / "run" / "run.json").read_text())
    assert recorded["model"]["arch"]["widths"] == [16, 16, 16]
    assert (recorded["recipe"]["name"], recorded["recipe"]["duration"]) == ("fast", "2 steps")
    assert "plugins" not in recorded


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('base = "resnet20_cifar"\nordr = "wide"', "'ordr'.*nearest: 'order'"),
        ('base = "resnet20_cifer"', "nearest: 'resnet20_cifar'"),
        ("widths = [4]", "base, or depths and widths"),
        ("base = ", "a TOML file"),
        ('base = "bad.toml"', "end the circle"),
    ],
)
def test_a_wrong_toml_file_is_an_error(folder: Path, content: str, message: str) -> None:
    (folder / "bad.toml").write_text(content)
    with pytest.raises(ValueError, match=message):
        reslab.create_model("bad.toml")
    with pytest.raises(ValueError, match=r"bad\.toml"):
        reslab.create_model("bat.toml")
