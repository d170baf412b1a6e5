"""Kernels, maps and attributions of a subject's pictures, as plain data."""

import json

import pytest
import torch
import torchvision
from torch import nn

from reslab.analysis.attribution import AttributionOptions, attribute, grad_cam
from reslab.analysis.features import FeatureOptions, features
from reslab.analysis.inputs import picture, plain
from reslab.analysis.layers import default_layers, outputs_of, pooled, unit_layers
from reslab.analysis.linear_probes import ProbeOptions, probes
from reslab.analysis.nearest import NearestOptions, nearest
from reslab.analysis.similarity import similarity
from reslab.analysis.subject import Subject, open_subjects, subject_of
from reslab.nn.factory import create_model
from reslab.report.plots.images import pixels_of
from reslab.spec.config import to_dict

FEW = AttributionOptions(pictures=2, steps=4)


def subject() -> Subject:
    (found,) = open_subjects(["resnet20_cifar:depths=1,1,1:num_classes=10:in_channels=1"], num_images=6)
    return found


def test_layers_that_are_asked_where_none_is_named() -> None:
    model = create_model("resnet20_cifar")
    assert default_layers(model) == ("conv1", "layer1.2", "layer2.2", "layer3.2")
    assert unit_layers(model)[:2] == ("layer1.0", "layer1.1")
    assert default_layers(torchvision.models.resnet18()) == ("conv1", "layer1.1", "layer2.1", "layer3.1", "layer4.1")


def test_outputs_are_those_of_the_layers_in_batches() -> None:
    model, x = create_model("resnet20_cifar", depths=(1, 1, 1)).eval(), torch.randn(5, 3, 16, 16)
    found = outputs_of(model, ["layer2.0", "fc"], x, batch=2)
    with torch.no_grad():
        expected = model.layer2(model.layer1(model.run_stem(x)))
        torch.testing.assert_close(found["layer2.0"], expected)
        torch.testing.assert_close(found["fc"], model(x))
    assert torch.equal(pooled(expected), expected.mean((2, 3)))
    assert not any(module._forward_hooks for module in model.modules())


def test_each_run_of_a_shared_unit_is_a_layer() -> None:
    model, x = create_model("book_resdeep", depths=(3,)).eval(), torch.randn(5, 3, 32, 32)
    found = outputs_of(model, ["layer1.0", "fc"], x, batch=2)
    assert list(found) == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)", "fc"]
    with torch.no_grad():
        expected = model.run_stem(x)
        for label in ("layer1.0", "layer1.0 (2)", "layer1.0 (3)"):
            expected = model.layer1[0](expected)
            torch.testing.assert_close(found[label], expected)
    torch.testing.assert_close(outputs_of(model, ["layer1.0 (2)"], x), {"layer1.0 (2)": found["layer1.0 (2)"]})
    both = outputs_of(model, ["layer1.0 (2)", "layer1.0"], x, batch=2)
    assert sorted(both) == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)"]
    torch.testing.assert_close(both["layer1.0 (2)"], found["layer1.0 (2)"])
    with pytest.raises(ValueError, match=r"layer1\.0 \(4\)"):
        outputs_of(model, ["layer1.0 (4)"], x)


def test_questions_tell_each_run_of_a_shared_unit() -> None:
    (shared,) = open_subjects(["book_resdeep:depths=3"], num_images=6)
    runs = ["layer1.0", "layer1.0 (2)", "layer1.0 (3)"]
    assert [layer.layer for layer in features(shared).layers] == ["conv1", *runs]
    assert similarity([shared]).pairs[0].rows == ("conv1", *runs)
    assert [probe.layer for probe in probes(shared, ProbeOptions(most=50)).probes] == ["conv1", *runs]
    assert nearest(shared, NearestOptions(neighbours=2, most=20)).layer == runs[-1]


def test_the_picture_is_the_one_that_was_normalised() -> None:
    found = subject()
    assert found.data is not None
    mean, std = found.data.preprocess.mean[0], found.data.preprocess.std[0]
    expected = ((found.images[2, 0] * std + mean).clamp(0, 1) * 255).round()
    assert torch.equal(torch.from_numpy(pixels_of(picture(found, 2))[..., 0].copy()).float(), expected)


def test_maps_are_pooled_where_they_are_large() -> None:
    large = plain(torch.arange(112 * 112.0).view(112, 112))
    assert (len(large), len(large[0])) == (56, 56)
    assert large[0][0] == pytest.approx((0 + 1 + 112 + 113) / 4)
    assert plain(torch.tensor([[1 / 3]])) == ((0.33333,),)


def test_attributions_are_those_of_the_functions() -> None:
    found = subject()
    answer = attribute(found, FEW)
    assert answer.layer == "layer3.0"
    with torch.no_grad():
        target = found.model(found.images[:2]).argmax(1)
    expected = grad_cam(found.model, found.images[:2], target, "layer3.0")
    assert [one.grad_cam for one in answer.pictures] == [plain(row) for row in expected]
    assert len(answer.pictures[0].occlusion) == found.images.shape[-1]
    json.dumps(to_dict(answer), allow_nan=False)


def test_the_label_and_the_pictures_called_wrong() -> None:
    found = subject()
    answer = attribute(found, AttributionOptions(pictures=9, target="label", wrong=True, steps=2))
    assert all(one.label == one.target != one.predicted for one in answer.pictures)
    with torch.no_grad():
        right = found.model(found.images).argmax(1)
    sure = Subject("sure", found.model, found.images, right, found.data, found.classes)
    with pytest.raises(ValueError, match="a picture that is called wrong; got: none among 6"):
        attribute(sure, AttributionOptions(wrong=True))


def test_kernels_are_the_weights_of_the_largest_norm() -> None:
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=(1, 1, 1), num_classes=4)
    answer = features(subject_of(model, torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.long)), FeatureOptions())
    norms = model.conv1.weight.detach().flatten(1).norm(dim=1)
    first = answer.kernels[0]
    assert first.channel == int(norms.argmax())
    assert first.norm == pytest.approx(float(norms.max()))
    assert first.values[2][0][1] == pytest.approx(float(model.conv1.weight.detach()[first.channel, 2, 0, 1]), rel=1e-4)
    assert len(answer.kernels) == 12


def test_silent_channels_are_counted() -> None:
    found = subject()
    unit = found.model.get_submodule("layer1.0")
    with torch.no_grad():
        found.model.bn1.weight[3:5] = 0
        found.model.bn1.bias[3:5] = -1
        unit.bn2.weight[3:5] = 0
        unit.bn2.bias[3:5] = -1
    answer = features(found, FeatureOptions(layers=("layer1.0",), channels=3))
    (layer,) = answer.layers
    assert (layer.num_silent, layer.num_channels, len(layer.maps)) == (2, 16, 3)
    assert not {3, 4} & set(layer.channels)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown target 'lable'; nearest: 'label'"):
        attribute(subject(), AttributionOptions(target="lable"))
    with pytest.raises(ValueError, match="a picture from 0 to 5; got: 6"):
        features(subject(), FeatureOptions(picture=6))
    with pytest.raises(ValueError, match="a layer with maps"):
        features(subject(), FeatureOptions(layers=("fc",)))
    with pytest.raises(ValueError, match="unknown layer 'layr1'; nearest: 'layer1'"):
        features(subject(), FeatureOptions(layers=("layr1",)))


def test_a_linear_layer_in_a_row_is_not_asked_for_maps() -> None:
    row = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    assert default_layers(row) == ("0",)


def test_of_many_runs_a_few_are_shown_where_none_is_named() -> None:
    (shared,) = open_subjects(["book_resdeep:depths=12"], num_images=2)
    shown = [layer.layer for layer in features(shared).layers]
    assert len(shown) == 6
    assert (shown[0], shown[-1]) == ("conv1", "layer1.0 (12)")
    assert len(features(shared, FeatureOptions(layers=("layer1.0",))).layers) == 12
