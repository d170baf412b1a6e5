"""Kernels, feature maps and attributions as plain data."""

import json

import pytest
import torch
import torchvision
from torch import nn

from reslab.analysis.attribution import AttributionOptions, analyze_attribution, grad_cam
from reslab.analysis.features import FeatureOptions, analyze_features, analyze_similarity
from reslab.analysis.layers import block_names, default_layers, layer_outputs, pool_features
from reslab.analysis.open_targets import open_targets, target_from_module
from reslab.analysis.probes import LinearProbeOptions, NeighborOptions, analyze_neighbors, analyze_probes
from reslab.analysis.target import AnalysisTarget, image_data_uri, map_to_rows
from reslab.nn.factory import create_model
from reslab.report.images import decode_data_uri
from reslab.spec.config import to_dict

FEW = AttributionOptions(num_images=2, num_steps=4)


def subject() -> AnalysisTarget:
    (result,) = open_targets(["resnet20_cifar:depths=1,1,1:num_classes=10:in_channels=1"], num_images=6)
    return result


def test_default_layers() -> None:
    model = create_model("resnet20_cifar")
    assert default_layers(model) == ("conv1", "layer1.2", "layer2.2", "layer3.2")
    assert block_names(model)[:2] == ("layer1.0", "layer1.1")
    assert default_layers(torchvision.models.resnet18()) == ("conv1", "layer1.1", "layer2.1", "layer3.1", "layer4.1")


def test_outputs_are_those_of_the_layers_in_batches() -> None:
    model, x = create_model("resnet20_cifar", depths=(1, 1, 1)).eval(), torch.randn(5, 3, 16, 16)
    result = layer_outputs(model, ["layer2.0", "fc"], x, batch_size=2)
    with torch.no_grad():
        expected = model.layer2(model.layer1(model.forward_stem(x)))
        torch.testing.assert_close(result["layer2.0"], expected)
        torch.testing.assert_close(result["fc"], model(x))
    assert torch.equal(pool_features(expected), expected.mean((2, 3)))
    assert not any(module._forward_hooks for module in model.modules())


def test_each_call_of_a_shared_block_is_a_layer() -> None:
    model, x = create_model("book_resdeep", depths=(3,)).eval(), torch.randn(5, 3, 32, 32)
    result = layer_outputs(model, ["layer1.0", "fc"], x, batch_size=2)
    assert list(result) == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)", "fc"]
    with torch.no_grad():
        expected = model.forward_stem(x)
        for label in ("layer1.0", "layer1.0 (2)", "layer1.0 (3)"):
            expected = model.layer1[0](expected)
            torch.testing.assert_close(result[label], expected)
    torch.testing.assert_close(layer_outputs(model, ["layer1.0 (2)"], x), {"layer1.0 (2)": result["layer1.0 (2)"]})
    both = layer_outputs(model, ["layer1.0 (2)", "layer1.0"], x, batch_size=2)
    assert sorted(both) == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)"]
    torch.testing.assert_close(both["layer1.0 (2)"], result["layer1.0 (2)"])
    with pytest.raises(ValueError, match=r"layer1\.0 \(4\)"):
        layer_outputs(model, ["layer1.0 (4)"], x)


def test_analyses_list_each_call_of_a_shared_block() -> None:
    (shared,) = open_targets(["book_resdeep:depths=3"], num_images=6)
    calls = ["layer1.0", "layer1.0 (2)", "layer1.0 (3)"]
    assert [layer.layer for layer in analyze_features(shared).layers] == ["conv1", *calls]
    assert analyze_similarity([shared]).pairs[0].rows == ("conv1", *calls)
    assert [probe.layer for probe in analyze_probes(shared, LinearProbeOptions(max_fit_images=50)).probes] == [
        "conv1",
        *calls,
    ]
    assert analyze_neighbors(shared, NeighborOptions(num_neighbors=2, max_searched=20)).layer == calls[-1]


def test_the_image_is_the_one_before_normalization() -> None:
    result = subject()
    assert result.data is not None
    mean, std = result.data.preprocess.mean[0], result.data.preprocess.std[0]
    expected = ((result.images[2, 0] * std + mean).clamp(0, 1) * 255).round()
    assert torch.equal(torch.from_numpy(decode_data_uri(image_data_uri(result, 2))[..., 0].copy()).float(), expected)


def test_maps_are_pooled_where_they_are_large() -> None:
    large = map_to_rows(torch.arange(112 * 112.0).view(112, 112))
    assert (len(large), len(large[0])) == (56, 56)
    assert large[0][0] == pytest.approx((0 + 1 + 112 + 113) / 4)
    assert map_to_rows(torch.tensor([[1 / 3]])) == ((0.33333,),)


def test_attributions_are_those_of_the_functions() -> None:
    inputs = subject()
    result = analyze_attribution(inputs, FEW)
    assert result.layer == "layer3.0"
    with torch.no_grad():
        target = inputs.model(inputs.images[:2]).argmax(1)
    expected = grad_cam(inputs.model, inputs.images[:2], target, "layer3.0")
    assert [one.grad_cam for one in result.images] == [map_to_rows(row) for row in expected]
    assert len(result.images[0].occlusion) == inputs.images.shape[-1]
    json.dumps(to_dict(result), allow_nan=False)


def test_the_label_as_target_class_and_misclassified_images() -> None:
    inputs = subject()
    result = analyze_attribution(
        inputs, AttributionOptions(num_images=9, target_class="label", misclassified=True, num_steps=2)
    )
    assert all(one.label == one.target_class != one.predicted for one in result.images)
    with torch.no_grad():
        right = inputs.model(inputs.images).argmax(1)
    sure = AnalysisTarget("sure", inputs.model, inputs.images, right, inputs.task, inputs.data)
    with pytest.raises(ValueError, match="a misclassified image; got: none among 6"):
        analyze_attribution(sure, AttributionOptions(misclassified=True))


def test_kernels_are_the_weights_of_the_largest_norm() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(1, 1, 1), num_classes=4)
    result = analyze_features(
        target_from_module(model, torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.long)), FeatureOptions()
    )
    norms = model.conv1.weight.detach().flatten(1).norm(dim=1)
    first = result.kernels[0]
    assert first.channel == int(norms.argmax())
    assert first.norm == pytest.approx(float(norms.max()))
    assert first.values[2][0][1] == pytest.approx(float(model.conv1.weight.detach()[first.channel, 2, 0, 1]), rel=1e-4)
    assert len(result.kernels) == 12


def test_dead_channels_are_counted() -> None:
    inputs = subject()
    block = inputs.model.get_submodule("layer1.0")
    with torch.no_grad():
        inputs.model.bn1.weight[3:5] = 0
        inputs.model.bn1.bias[3:5] = -1
        block.bn2.weight[3:5] = 0
        block.bn2.bias[3:5] = -1
    result = analyze_features(inputs, FeatureOptions(layers=("layer1.0",), max_channels=3))
    (layer,) = result.layers
    assert (layer.num_dead, layer.num_channels, len(layer.maps)) == (2, 16, 3)
    assert not {3, 4} & set(layer.channels)


def test_invalid_options_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown target class 'lable'; nearest: 'label'"):
        analyze_attribution(subject(), AttributionOptions(target_class="lable"))
    with pytest.raises(ValueError, match="image_index from 0 to 5; got: 6"):
        analyze_features(subject(), FeatureOptions(image_index=6))
    with pytest.raises(ValueError, match="a layer with maps"):
        analyze_features(subject(), FeatureOptions(layers=("fc",)))
    with pytest.raises(ValueError, match="unknown layer 'layr1'; nearest: 'layer1'"):
        analyze_features(subject(), FeatureOptions(layers=("layr1",)))


def test_a_linear_layer_is_not_a_default_layer() -> None:
    row = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    assert default_layers(row) == ("0",)


def test_of_many_calls_a_few_are_shown_by_default() -> None:
    (shared,) = open_targets(["book_resdeep:depths=12"], num_images=2)
    shown = [layer.layer for layer in analyze_features(shared).layers]
    assert len(shown) == 6
    assert (shown[0], shown[-1]) == ("conv1", "layer1.0 (12)")
    assert len(analyze_features(shared, FeatureOptions(layers=("layer1.0",))).layers) == 12
