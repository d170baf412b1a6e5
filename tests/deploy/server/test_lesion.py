"""`/v1/lesion`: blocks switched off and swapped give the results of `analysis` on a separate network."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from reslab.analysis.layers import record_block_calls
from reslab.analysis.surgery import disabled_blocks, scaled_branches, swapped_blocks
from reslab.deploy.server.app import create_app
from reslab.deploy.server.settings import ServerSettings
from reslab.nn.checkpoints.load_report import allow_nonfinite_weights
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.network import ResidualNetwork
from reslab.training.checkpoint import load_run_network
from reslab.training.run import Run
from tests.deploy.server.expected import PLAN, cut, probabilities, probability_by_name


def test_units_off_and_swapped(client: TestClient, network: ResidualNetwork, x: torch.Tensor, text: str) -> None:
    sent = {"image": text, "off": ["layer1.1", "layer3.0"], "swap": [["layer1.0", "layer1.1"]]}
    response = client.post("/v1/lesion", json=sent).json()
    assert probability_by_name(response["baseline"]) == pytest.approx(probabilities(network, x), abs=1e-6)
    with swapped_blocks(network, "layer1.0", "layer1.1"), disabled_blocks(network, ["layer1.1", "layer3.0"]):
        assert probability_by_name(response["classes"]) == pytest.approx(probabilities(network, x), abs=1e-6)
        with torch.no_grad(), record_block_calls(network) as runs:
            network(x)
    stds = [float(run.output.std(correction=0)) for run in runs]
    assert [row["ablated"] for row in response["responses"]] == pytest.approx(stds, rel=1e-4)
    assert [row["block"] for row in response["responses"]] == [name for name, _ in network.blocks()]
    assert response["rejected"] == []


def test_first_classes_of_either_network_are_reported_of_both(
    client: TestClient, network: ResidualNetwork, x: torch.Tensor, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that leaves the top classes has not dropped to zero."""
    monkeypatch.setattr("reslab.deploy.server.routes.blocks._NUM_TOP_CLASSES", 2)
    response = client.post("/v1/lesion", json={"image": text, **PLAN}).json()
    whole = probabilities(network, x)
    with cut(network):
        now = probabilities(network, x)
    firsts = {name for each in (whole, now) for name in sorted(each, key=lambda name: -each[name])[:2]}
    assert len(firsts) > 2
    for rows, expected in ((response["baseline"], whole), (response["classes"], now)):
        assert probability_by_name(rows) == pytest.approx({name: expected[name] for name in firsts}, abs=1e-6)
        assert [row["probability"] for row in rows] == sorted((row["probability"] for row in rows), reverse=True)


def test_the_plan_may_come_with_a_form(client: TestClient, png: bytes, text: str) -> None:
    form = client.post("/v1/lesion", files={"image": png}, data={"ablation": '{"off": ["layer2.1"]}'})
    assert form.json() == client.post("/v1/lesion", json={"image": text, "off": ["layer2.1"]}).json()


def test_a_block_that_cannot_be_disabled_stays_with_the_reason(client: TestClient, text: str) -> None:
    sent = {"image": text, "off": ["layer3.0", "layer1.1"], "swap": [["layer1.0", "layer3.0"]]}
    response = client.post("/v1/lesion", params={"model": "plain"}, json=sent).json()
    assert [row["block"] for row in response["rejected"]] == ["layer1.0, layer3.0", "layer3.0"]
    assert "equal channels" in response["rejected"][0]["reason"]
    assert "changes the shape" in response["rejected"][1]["reason"]
    assert probability_by_name(response["classes"]) != probability_by_name(response["baseline"])


@pytest.mark.parametrize(
    "plan",
    [
        {"off": ["layer9.0"]},
        {"off": "layer1.0"},
        {"off": [1]},
        {"swap": [["layer1.0"]]},
        {"swap": {"a": 1}},
        {"scale": ["layer1.0"]},
        {"scale": {"layer1.0": "0.5"}},
        {"scale": {"layer1.0": True}},
        {"scale": {"layer1.0": 10.5}},
        {"scale": {"layer1.9": 0.5}},
        {"off": None},
        {"off": ["layer1.0"] * 1001},
        {"swap": [["layer1.0", "layer1.1"]] * 1001},
        {"off": ["x" * 100_000]},
    ],
)
def test_a_plan_that_means_nothing_is_refused(client: TestClient, text: str, plan: dict[str, object]) -> None:
    response = client.post("/v1/lesion", json={"image": text, **plan})
    assert response.status_code == 422, response.text
    assert len(response.text) < 3000


def test_a_diverged_network_is_reported(runs: list[Run], settings: ServerSettings, png: bytes, tmp_path: Path) -> None:
    """NaN is not valid JSON, and zeros would be wrong."""
    folder = tmp_path / "nan"
    shutil.copytree(runs[0].path, folder)
    network = load_run_network(runs[0])
    with torch.no_grad():
        network.conv1.weight.fill_(torch.nan)
    save_weights(folder / "model.safetensors", network)
    with allow_nonfinite_weights(), TestClient(create_app([folder], settings)) as client:
        for way in ("/v1/predict", "/v1/explain", "/v1/lesion", "/v1/lesion/curve"):
            response = client.post(way, content=png)
            assert (response.status_code, "with finite outputs; got: nan" in response.json()["error"]) == (500, True), (
                way
            )
        assert client.post("/v1/block?block=layer1.0", content=png).status_code == 200
        assert client.get("/v1/models/nan/run").status_code == 200


def test_the_curve_is_each_unit_alone(
    client: TestClient, network: ResidualNetwork, x: torch.Tensor, png: bytes
) -> None:
    response = client.post("/v1/lesion/curve", content=png).json()
    whole = probabilities(network, x)
    first = max(whole, key=lambda name: whole[name])
    drops = []
    for name, _ in network.blocks():
        with disabled_blocks(network, [name]):
            drops.append(whole[first] - probabilities(network, x)[first])
    assert [row["confidence_drop"] for row in response["blocks"]] == pytest.approx(drops, abs=1e-6)
    assert response["num_images"] == 1


def test_the_curve_of_a_plain_twin_on_the_runs_images(client: TestClient) -> None:
    response = client.post("/v1/lesion/curve", params={"model": "plain"}).json()
    assert response["num_images"] == 32
    missing = [row["block"] for row in response["blocks"] if row["confidence_drop"] is None]
    assert missing == ["layer2.0", "layer3.0"]
    assert all(row["reason"] for row in response["blocks"] if row["block"] in missing)


def test_lesions_and_predictions_at_once_leave_each_other_alone(client: TestClient, png: bytes, text: str) -> None:
    """Also with torch, whose ablations change the module itself: predictions use another copy."""
    whole = client.post("/v1/predict", content=png).json()["predictions"]
    plans = [{"off": ["layer1.0"]}, {"off": ["layer1.1", "layer2.1"]}, {"swap": [["layer1.0", "layer1.1"]]}, {}]
    alone = [client.post("/v1/lesion", json={"image": text, **plan}).json() for plan in plans]

    def predict(_: int) -> object:
        return client.post("/v1/predict", content=png).json()["predictions"]

    def lesion(number: int) -> object:
        return client.post("/v1/lesion", json={"image": text, **plans[number % len(plans)]}).json()

    with ThreadPoolExecutor(6) as pool:
        predicted, cut = pool.map(predict, range(24)), pool.map(lesion, range(24))
        assert all(same(result, whole) for result in predicted)
        assert all(result == alone[number % len(plans)] for number, result in enumerate(cut))


def same(result: object, expected: object) -> bool:
    """Equal up to rounding, which the batch size may change."""
    (left,), (right,) = result, expected  # type: ignore[misc]
    names = [[row["name"] for row in each["classes"]] for each in (left, right)]
    numbers = [[row["probability"] for row in each["classes"]] for each in (left, right)]
    return names[0] == names[1] and numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_branches_are_scaled(client: TestClient, network: ResidualNetwork, x: torch.Tensor, text: str) -> None:
    sent = {"image": text, "off": ["layer1.1"], "scale": {"layer2.1": 0.5, "layer1.1": 2}}
    response = client.post("/v1/lesion", json=sent).json()
    with scaled_branches(network, {"layer2.1": 0.5}), disabled_blocks(network, ["layer1.1"]):
        assert probability_by_name(response["classes"]) == pytest.approx(probabilities(network, x), abs=1e-6)
    plain = client.post("/v1/lesion", params={"model": "plain"}, json={"image": text, "scale": {"layer1.1": 0.5}})
    assert plain.json()["rejected"] == [{"block": "layer1.1", "reason": "it has no shortcut"}]
