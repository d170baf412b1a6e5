"""`reslab summary`: counts, shapes and block layout of a network."""

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
