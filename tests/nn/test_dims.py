"""Networks for signals and volumes: against torchvision's r3d_18, and against the same network of images."""

import pytest
import torch
import torchvision
from agreement import gradients, images, randomise

from reslab.nn.checkpoints.load import load_checkpoint
from reslab.nn.checkpoints.read import unwrap_checkpoint
from reslab.nn.factory import create_model
from reslab.spec.layout import layout_stages
from reslab.spec.zoo import ARCHS


def test_r3d_18_is_torchvisions():
    """Outputs and gradients in float64, all weights and statistics drawn at random."""
    theirs = torchvision.models.video.r3d_18(num_classes=5).double().eval()
    randomise(theirs)
    ours = create_model("r3d_18", num_classes=5).double().eval()
    load_checkpoint(ours, unwrap_checkpoint("r3d_18", theirs.state_dict()))
    assert ours.load_report.key_scheme == "torchvision video"
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x = images(1, 3, 4, 32, 32)
    y, grads = gradients(ours, dict(ours.named_parameters()), x, None)
    expected, their_grads = gradients(theirs, dict(theirs.named_parameters()), x, None)
    assert torch.allclose(y, expected, rtol=1e-9)
    assert torch.allclose(grads["input"], their_grads["input"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_18", "seresnet18", "ecaresnet26t", "pyramidnet110_cifar"])
def test_a_network_of_signals_is_the_one_of_images_of_height_one(name):
    """A kernel of three rows, of which only the middle one is not zero, reads an image of height 1 as a signal."""
    depths = (1,) * len(ARCHS[name].depths)
    signals = create_model(name, dims=1, depths=depths, num_classes=4).double().eval()
    randomise(signals)
    flat = create_model(name, depths=depths, num_classes=4).double().eval()
    state = signals.state_dict()
    for key, tensor in flat.state_dict().items():
        if tensor.ndim == 4:
            kernel = torch.zeros_like(tensor)
            kernel[:, :, tensor.shape[2] // 2] = state[key]
            state[key] = kernel
    flat.load_state_dict(state)
    x = images(2, 3, 64)
    flat.total_stride = 1  # the height is 1
    assert torch.allclose(signals(x), flat(x[:, :, None]), rtol=1e-10)


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize(
    "name",
    [
        *("resnetblur18", "skresnet18", "res2net50_26w_4s", "resnest14d", "nf_resnet26", "convnext_atto"),
        *("resnetv2_50d_evos", "resnetv2_50x1_bit", "regnety_002"),
    ],
)
def test_every_operation_has_one_and_three_dimensions(name, dims):
    model = create_model(name, dims=dims, depths=(1,) * len(ARCHS[name].depths), num_classes=3)
    y = model(torch.randn(2, 3, *([96] if dims == 1 else [48] * 3)))
    y.sum().backward()
    assert y.shape == (2, 3)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_axis_dims_keeps_the_side_and_names_what_the_network_takes():
    model = create_model("resnet18", dims=1, in_channels=2)
    assert model.arch.image_size == (224,)
    with pytest.raises(ValueError, match="signals N 2 T"):
        model(torch.zeros(1, 2, 64, 64))
    with pytest.raises(ValueError, match="image_size with 3 sides"):
        layout_stages(create_model("resnet18", dims=3, image_size=(8, 8)).arch)
    with pytest.raises(ValueError, match=r"dims of 1 \(signals\), 2 \(images\) or 3"):
        create_model("resnet18", dims=4, image_size=(8, 8, 8, 8))
    with pytest.raises(ValueError, match="a kernel with 2 sides"):
        create_model("resnet18", stem="conv3x7x7(8) norm act")
