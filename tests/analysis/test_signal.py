"""x_L = x_l + the branches between: to rounding where it should, and measured where it does not."""

import pytest
import torch
import torchvision
from torch import nn

from reslab.analysis.subject import Subject, open_subjects, subject_of
from reslab.analysis.telescope import ROUNDING, Telescope, TelescopeOptions, ask_telescope
from reslab.nn.factory import create_model


def asked(name: str, statistics: str = "auto") -> Telescope:
    [subject] = open_subjects([name], data="random", num_images=4)
    return ask_telescope(subject, TelescopeOptions(statistics))


SMALL = "resnet20_cifar:depths=3,2,2:widths=16,32,32:image_size=16,16"


@pytest.mark.parametrize("order", ["full-preact", "relu-before-add", "relu-preact", "norm-free-preact"])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_it_holds_where_shortcut_and_after_are_identities(order: str, statistics: str) -> None:
    found = asked(f"{SMALL}:order={order}", statistics)
    assert found.verdict == "holds"
    assert found.worst is None
    assert found.worst_exact is not None
    assert found.worst_exact < ROUNDING
    assert [unit.label for unit in found.units if unit.error is None] == ["layer2.0", "layer3.0"]  # shapes change


@pytest.mark.parametrize(
    ("axes", "obstacle"),
    [
        ("order=original", "after the addition comes act"),
        ("order=bn-after-add", "after the addition comes norm act"),
        ("order=full-preact:mix=scale(0.5,1)", "the shortcut is changed before the addition"),
        ("mix=none", "there is no shortcut"),
        ("order=full-preact:match=project-all", "the shortcut is project"),
    ],
)
def test_its_failure_is_measured_and_named(axes: str, obstacle: str) -> None:
    found = asked(f"{SMALL}:{axes}")
    assert found.verdict == "fails"
    assert found.worst is not None
    assert found.worst > 0.01
    assert found.obstacle == obstacle


def test_the_error_is_the_one_that_relu_cuts_away() -> None:
    """One unit: x_L - x - F = relu(x + F) - (x + F), the negative part."""
    [subject] = open_subjects(["resnet20_cifar:depths=1,1,1"], data="random", num_images=4)
    found = ask_telescope(subject, TelescopeOptions("running")).units[0]
    model = subject.model
    with torch.no_grad():
        x = model.run_stem(subject.images)  # type: ignore[operator]
        unit = model.get_submodule("layer1.0")
        total = x + unit.branch(x)  # type: ignore[operator]
        expected = total.clamp(max=0).norm() / total.clamp(min=0).norm()
    assert found.error == pytest.approx(float(expected), rel=1e-5)


def test_a_shared_unit_is_added_as_often_as_it_runs() -> None:
    found = asked("book_resdeep:depths=4")
    assert [unit.label for unit in found.units] == ["layer1.0", "layer1.0 (2)", "layer1.0 (3)", "layer1.0 (4)"]
    assert found.verdict == "holds"


def test_a_module_of_others_answers_as_the_network_with_its_weights() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=4)
    ours = create_model("resnet18", num_classes=4, pretrained=theirs.state_dict())
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    answers = [ask_telescope(subject_of(model, x, y, "one"), TelescopeOptions()) for model in (theirs, ours)]
    assert answers[0] == answers[1]
    assert answers[0].obstacle == "after the addition comes act"


def test_modules_without_units_that_can_be_taken_apart_are_refused() -> None:
    model = torchvision.models.mobilenet_v2(width_mult=0.25)
    other = subject_of(model, torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="a network of the zoo computes as well; got: a MobileNetV2"):
        ask_telescope(other, TelescopeOptions())
    unitless: Subject = subject_of(create_model("book_net"), torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="a network of units"):
        ask_telescope(unitless, TelescopeOptions())
    with pytest.raises(ValueError, match="running"):
        asked(SMALL, "runing")
    assert isinstance(other.model, nn.Module)
