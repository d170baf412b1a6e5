"""`reslab demo`: two networks and one report."""

from pathlib import Path

import pytest

from reslab.cli.demo import residual_and_plain
from reslab.training.run import Run
from reslab.training.run_data import reopen_data
from tests.cli.conftest import Command

pytestmark = pytest.mark.usefixtures("empty_plots")


def test_the_demonstration_on_a_small_scale(command: Command, tmp_path: Path) -> None:
    outcome = command("demo", "--model", "resnet20_cifar", "--epochs", "1", "--output", tmp_path / "d", "--json")
    assert outcome.code == 0
    networks = outcome.value["networks"]
    assert [network["name"] for network in networks] == ["resnet20_cifar", "plain20_cifar"]
    assert networks[0]["params"] == networks[1]["params"]
    assert networks[0]["gradient_norms"][0][0] == "layer1.0"
    assert [len(network["gradient_norms"]) for network in networks] == [9, 9]
    page = Path(outcome.value["report"]).read_text()
    assert "resnet20_cifar" in page
    assert "plain20_cifar" in page
    assert (tmp_path / "d" / "plain" / "report.html").exists()
    assert reopen_data(Run(tmp_path / "d" / "plain").metadata["data"]).name == "digits"


def test_a_twin_differs_in_the_merge_alone() -> None:
    pair = residual_and_plain("preresnet110_cifar")
    assert pair["plain"].merge == "none"
    assert pair["plain"].depths == pair["residual"].depths
    assert pair["plain"].name == "plain preresnet110_cifar"
    assert residual_and_plain("resnet56_cifar")["plain"].name == "plain56_cifar"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model", "resnt56_cifar"), "resnet56_cifar"),
        (("--model", "plain56_cifar"), "with shortcuts"),
        (("--model", "book_net"), "with shortcuts"),
        (("--output", "."), "new or empty"),
    ],
)
def test_mistakes_raise_helpful_errors(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    (tmp_path / "somebody's").touch()
    monkeypatch.chdir(tmp_path)
    outcome = command("demo", *arguments)
    assert outcome.code == 1
    assert expected in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["somebody's"]
