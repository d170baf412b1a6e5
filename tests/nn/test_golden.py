"""Every network of the zoo against golden counts: parameters, multiply-adds and output shape, each with its source."""

import json
from pathlib import Path

import pytest
import torch
from derived_counts import DERIVED

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model, list_models
from reslab.spec.layout import layout_stages
from reslab.spec.zoo import ARCHS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "networks.json").read_text(encoding="utf-8"))
# Weighted layers on the way through, projections not counted, as the papers name their networks.
DEPTHS = {
    18: "resnet18 resnet18_a plain18 resnet18_cifar resnet18_d2l sepreresnet18_cifar",
    34: "resnet34 resnet34_a resnet34_c plain34",
    50: "resnet50 resnet50_v1 resnext50_32x4d wide_resnet50_2 resnetv2_50 seresnet50",
    101: "resnet101 resnet101_v1 resnext101_32x8d resnext101_64x4d wide_resnet101_2 resnetv2_101",
    152: "resnet152 resnet152_v1 resnetv2_152 preresnet152",
    200: "resnet200 preresnet200",
    8: "resnet8_fast",
    11: "resnet11_fast resnet11_fast_wide",
    26: "shake26_2x32d_cifar shake26_2x64d_cifar shake26_2x96d_cifar",
    20: "resnet20_cifar plain20_cifar sepreresnet20_cifar",
    56: "resnet56_cifar plain56_cifar rezero56_cifar skipinit56_cifar",
    110: "resnet110_cifar plain110_cifar preresnet110_cifar resnet110_1layer_cifar preresnet110_1layer_cifar "
    "resnet110_sd_cifar sepreresnet110_cifar fixup110_cifar pyramidnet110_cifar",
    164: "resnet164_cifar preresnet164_cifar sepreresnet164_cifar",
    1001: "resnet1001_cifar preresnet1001_cifar",
    1202: "resnet1202_cifar",
    29: "resnext29_8x64d_cifar",
}


def test_every_network_has_a_golden_line_and_every_line_a_network():
    assert set(GOLDEN) == set(ARCHS)
    assert list_models(kind="classification") == sorted(ARCHS)
    assert all(len(line["source"]) > 20 for line in GOLDEN.values())


# The large networks of timm are counted by `make zoo`; those of the papers always.
COUNTED = [name for name, line in GOLDEN.items() if line["params"] < 3e7 or "benchmarks/zoo.py" not in line["source"]]


# Hundreds of blocks of the same kind take seconds to build.
DEEP = {"preresnet1001_cifar", "resnet1202_cifar"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in DEEP else []) for name in sorted(COUNTED)]
)
def test_parameters_multiply_adds_and_output_shape(name):
    arch, golden = ARCHS[name], GOLDEN[name]
    with torch.device("meta"):
        model = create_model(name)
    rows = layer_table(model, arch.input_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden["params"]
    assert sum(row.params for row in rows) == golden["params"]
    assert sum(row.macs for row in rows) == golden["macs"]
    assert list(rows[-1].output_shape) == golden["output"]
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_derived_lines_follow_from_the_formula(name):
    assert DERIVED[name]() == (GOLDEN[name]["params"], GOLDEN[name]["macs"])


@pytest.mark.parametrize(("depth", "names"), DEPTHS.items())
def test_weighted_depth(depth, names):
    assert {name: ARCHS[name].depth for name in names.split()} == dict.fromkeys(names.split(), depth)


def test_name_source_and_plan():
    for name, arch in ARCHS.items():
        assert arch.name == name
        assert arch.reference.strip()
        names = [block.name for stage in layout_stages(arch) for block in stage]
        assert len(names) == len(set(names)) == arch.num_blocks


def test_zoo_has_every_required_model():
    required = """
        resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d wide_resnet50_2
        wide_resnet101_2 resnet50_v1 resnet101_v1 resnet152_v1 resnet26 resnet200 resnet18d resnet34d resnet50d
        resnet101d resnet152d resnet50c resnetv2_50 resnetv2_101 resnetv2_152 preresnet152 preresnet200 resnet20_cifar
        resnet32_cifar resnet44_cifar resnet56_cifar resnet110_cifar resnet1202_cifar resnet164_cifar resnet1001_cifar
        preresnet110_cifar preresnet164_cifar preresnet1001_cifar wrn16_8_cifar wrn28_10_cifar wrn40_4_cifar
        resnext29_8x64d_cifar resnet18_cifar plain18 plain34 plain20_cifar plain32_cifar plain44_cifar plain56_cifar
        plain110_cifar resnet18_d2l book_net book_width book_dropout book_batchnorm book_depth book_res book_resdeep
        book_resdeep_separate
    """
    assert set(required.split()) <= set(ARCHS)


def test_list_models_takes_patterns():
    assert list_models("book_res*") == ["book_res", "book_resdeep", "book_resdeep_separate"]
    assert list_models("fixup") == ["fixup110_cifar"]
    assert list_models("no such") == []
