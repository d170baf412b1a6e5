"""`reslab summary`: counts, shapes and block layout of a network."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_the_promised_keys(command: Command) -> None:
    facts = command("summary", "resnet50", "--json").value
    assert {"name", "reference", "depth", "params", "macs", "layers"} <= set(facts)
    assert {"name", "output_shape", "params", "macs"} <= set(facts["layers"][0])
    # He et al. 2015, Table 1, and torchvision's figures for resnet50.
    assert (facts["params"], facts["macs"], facts["depth"]) == (25_557_032, 4_089_184_256, 50)
    assert sum(layer["params"] for layer in facts["layers"]) == facts["params"]
    assert facts["layers"][-1]["output_shape"] == [1000]


def test_d2l_as_the_tutorial_prints_it(command: Command) -> None:
    facts = command("summary", "resnet18_d2l", "--input", "1x224x224", "--json").value
    assert (facts["depth"], facts["params"]) == (18, 11_178_378)
    shown = command("summary", "resnet18_d2l").out
    for line in ("layer1   64×56×56", "layer4   512×7×7", "avgpool  512×1×1", "flatten  512 ", "fc       10 "):
        assert line in shown
    assert "conv norm act | conv norm + act" in shown
    assert "435 pixels" in shown


def test_networks_for_segmentation_and_detection_are_shown_by_part(command: Command) -> None:
    facts = command("summary", "fcn_resnet20_cifar", "--num-classes", "3", "--json").value
    assert (facts["kind"], facts["backbone"], facts["num_classes"]) == ("segmentation", "resnet20_cifar", 3)
    assert sum(part["params"] for part in facts["parts"]) == facts["params"]
    assert sum(part["macs"] for part in facts["parts"]) == facts["macs"] > 40_000_000
    shown = command("summary", "fasterrcnn_resnet18_fpn_320").out
    backbone = command("summary", "resnet18", "--json").value["params"] - 512 * 1000 - 1000
    assert f"backbone.body            {backbone:,}" in shown
    detector = command("summary", "fasterrcnn_resnet18_fpn_320", "--json").value
    assert sum(layer["macs"] for layer in detector["layers"]) == detector["macs"]
    assert sum(layer["params"] for layer in detector["layers"]) == detector["params"]
    assert "5.33 G at 3×320×320" in shown


def test_axes_and_input_are_overridden(command: Command) -> None:
    arguments = ("summary", "resnet20_cifar", "--set", "model.depths=1,1,1", "--num-classes", "7", "--input", "1x28x28")
    facts = command(*arguments, "--json").value
    assert facts["depth"] == 8
    assert facts["input_size"] == [1, 28, 28]
    assert facts["layers"][-1]["output_shape"] == [7]


def test_a_run_is_shown(command: Command, trained: Path) -> None:
    for path in (trained, trained / "model.safetensors"):
        facts = command("summary", path, "--json").value
        assert facts["name"] == "resnet20_cifar"
        assert facts["input_size"] == [1, 8, 8]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("resnt50",), "resnet50"),
        (("fasterrcn_resnet50_fpn",), "'fasterrcnn_resnet50_fpn'"),
        (("fcn_resnet50", "--stages"), "a classification network for --draw and --stages"),
        (("resnet50", "--input", "224"), "3x224x224"),
        (("resnet50", "--input", "3x0x224"), "3x224x224"),
        (("resnet50", "--input", "3x16x16"), "32x32"),
        (("resnet50", "--set", "ordr=wide"), "model.ordr=wide"),
        (("resnet50", "--set", "model.ordr=wide"), "order"),
        (("resnet50", "--set", "model.order=wde"), "wide"),
        (("resnet50", "--set", "model.depths=3,x"), "depths"),
        (("resnet50", "--num-classes", "0"), "num_classes"),
    ],
)
def test_mistakes_raise_helpful_errors(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    outcome = command("summary", *arguments)
    assert outcome.code == 1
    assert outcome.out == ""
    assert expected in outcome.err
    assert "unexpected error" not in outcome.err


def test_a_thousand_layers_are_shown_quickly_enough_to_wait_for(command: Command) -> None:
    facts = command("summary", "resnet1202_cifar", "--json").value
    assert facts["depth"] == 1202
    assert facts["params"] == 19_421_274


def test_draw_a_network_and_a_block(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "network.svg"
    assert command("summary", "resnet18", "--draw", path, "--json").value == {
        "name": "resnet18",
        "block": None,
        "drawing": str(path),
    }
    assert ">resnet18</text>" in path.read_text(encoding="utf-8")
    command("summary", "resnet18", "--draw", path, "--block", "layer2.0", "--set", "model.merge=gate(-6)")
    assert ">g = sigmoid</text>" in path.read_text(encoding="utf-8")


def test_a_drawing_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from reslab.report.drawings.network import draw; draw('resnet50', sys.argv[1]);"
        "print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "network.svg")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_stages_of_several_networks(command: Command, tmp_path: Path) -> None:
    text = command("summary", "resnet18", "resnet50", "--stages").out
    assert "conv1    112×112  7×7, 64, stride 2" in text
    assert next(line.split() for line in text.splitlines() if "10⁹" in line) == ["FLOPs", "1.81×10⁹", "4.09×10⁹"]
    networks = command("summary", "resnet18", "resnet50", "--stages", "--json").value["networks"]
    assert [network["macs"] for network in networks] == [1_814_073_344, 4_089_184_256]
    assert networks[0]["stages"][2]["parts"] == [{"layers": ["3×3, 128", "3×3, 128"], "blocks": 2}]
    for suffix, expected in ((".md", "<br>"), (".html", 'class="bracket"'), (".txt", "⎡")):
        path = (tmp_path / "stages").with_suffix(suffix)
        command("summary", "resnet18", "--stages", "--output", path)
        assert expected in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("resnet18", "resnet50"), "--stages"),
        (("resnet18", "--draw", "a.svg", "--stages"), "--draw or --stages"),
        (("resnet18", "--draw", "a.jpg"), "a.svg"),
        (("resnet18", "--draw", "a.svg", "--block", "layer1.2"), "layer1.1"),
        (("resnet18", "--block", "layer1.0"), "--draw"),
        (("resnet18", "--output", "a.md"), "--stages"),
        (("resnet18", "--stages", "--output", "a.pdf"), "a.md"),
    ],
)
def test_options_that_do_not_go_together(command: Command, arguments: tuple[str, ...], expected: str) -> None:
    outcome = command("summary", *arguments)
    assert outcome.code == 1
    assert expected in outcome.err
