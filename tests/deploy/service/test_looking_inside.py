"""Lesions, units, heat maps: each equals what the functions of `analysis` give on a network of its own."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from reslab.analysis.attribution import grad_cam, integrated_gradients, occlusion
from reslab.analysis.surgery import swapped, switched_off
from reslab.analysis.unit_parts import take_apart
from reslab.analysis.units import unit_runs
from reslab.data.batches import Normalise
from reslab.data.decode import read_picture
from reslab.nn.network import Network
from reslab.training.loading import load
from reslab.training.run import Run


@pytest.fixture(scope="module")
def network(runs: list[Run]) -> Network:
    return load(runs[0])


@pytest.fixture(scope="module")
def x(network: Network, png: bytes) -> torch.Tensor:
    assert network.preprocess is not None
    return Normalise(network.preprocess, torch.device("cpu"))(read_picture(png, 1)[None])


def probabilities(network: torch.nn.Module, x: torch.Tensor) -> dict[str, float]:
    assert isinstance(network, Network)
    with torch.no_grad():
        values = network(x).softmax(1)[0].tolist()
    return dict(zip(network.classes or (), values, strict=True))


def told(rows: list[dict[str, float]]) -> dict[str, float]:
    return {str(row["name"]): row["probability"] for row in rows}


def test_units_off_and_swapped(client: TestClient, network: Network, x: torch.Tensor, text: str) -> None:
    sent = {"image": text, "off": ["layer1.1", "layer3.0"], "swap": [["layer1.0", "layer1.1"]]}
    found = client.post("/v1/lesion", json=sent).json()
    assert told(found["whole"]) == pytest.approx(probabilities(network, x), abs=1e-6)
    with swapped(network, "layer1.0", "layer1.1"), switched_off(network, ["layer1.1", "layer3.0"]):
        assert told(found["classes"]) == pytest.approx(probabilities(network, x), abs=1e-6)
        with torch.no_grad(), unit_runs(network) as runs:
            network(x)
    stds = [float(run.output.std(correction=0)) for run in runs]
    assert [row["now"] for row in found["responses"]] == pytest.approx(stds, rel=1e-4)
    assert [row["unit"] for row in found["responses"]] == [name for name, _ in network.units()]
    assert found["refused"] == []


def test_the_plan_may_come_with_a_form(client: TestClient, png: bytes, text: str) -> None:
    form = client.post("/v1/lesion", files={"image": png}, data={"plan": '{"off": ["layer2.1"]}'})
    assert form.json() == client.post("/v1/lesion", json={"image": text, "off": ["layer2.1"]}).json()


def test_what_cannot_be_cut_stays_and_tells_why(client: TestClient, text: str) -> None:
    sent = {"image": text, "off": ["layer3.0", "layer1.1"], "swap": [["layer1.0", "layer3.0"]]}
    found = client.post("/v1/lesion", params={"model": "plain"}, json=sent).json()
    assert [row["unit"] for row in found["refused"]] == ["layer1.0, layer3.0", "layer3.0"]
    assert "equal channels" in found["refused"][0]["reason"]
    assert "changes the shape" in found["refused"][1]["reason"]
    assert told(found["classes"]) != told(found["whole"])


@pytest.mark.parametrize(
    "plan", [{"off": ["layer9.0"]}, {"off": "layer1.0"}, {"off": [1]}, {"swap": [["layer1.0"]]}, {"swap": {"a": 1}}]
)
def test_a_plan_that_means_nothing_is_refused(client: TestClient, text: str, plan: dict[str, object]) -> None:
    found = client.post("/v1/lesion", json={"image": text, **plan})
    assert found.status_code == 422, found.text


def test_the_curve_is_each_unit_alone(client: TestClient, network: Network, x: torch.Tensor, png: bytes) -> None:
    found = client.post("/v1/lesion/curve", content=png).json()
    whole = probabilities(network, x)
    first = max(whole, key=lambda name: whole[name])
    drops = []
    for name, _ in network.units():
        with switched_off(network, [name]):
            drops.append(whole[first] - probabilities(network, x)[first])
    assert [row["drop"] for row in found["units"]] == pytest.approx(drops, abs=1e-6)
    assert found["num_images"] == 1


def test_the_curve_of_a_plain_twin_on_the_runs_images(client: TestClient) -> None:
    found = client.post("/v1/lesion/curve", params={"model": "plain"}).json()
    assert found["num_images"] == 32
    missing = [row["unit"] for row in found["units"] if row["drop"] is None]
    assert missing == ["layer2.0", "layer3.0"]
    assert all(row["reason"] for row in found["units"] if row["unit"] in missing)


def test_a_unit_told_apart(client: TestClient, network: Network, x: torch.Tensor, png: bytes) -> None:
    found = client.post("/v1/unit", params={"unit": "layer1.1"}, content=png).json()
    with torch.no_grad(), unit_runs(network) as runs:
        network(x)
    unit, incoming = network.layer1[1], runs[1].input
    with torch.no_grad():
        parts = take_apart(unit, incoming)
    output = unit(incoming).detach().requires_grad_()
    logits = network.run_head(network.layer3(network.layer2(output)))
    logits.max().backward()
    assert output.grad is not None
    wanted = (parts.output.std(correction=0), parts.branch.std(correction=0), parts.shortcut.std(correction=0))
    assert [found[name] for name in ("response", "branch", "shortcut")] == pytest.approx(
        [float(value) for value in wanted], rel=1e-4
    )
    assert found["gradient"] == pytest.approx(float(output.grad.norm()), rel=1e-4)
    strongest = found["channels"][0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["maps"][0].partition(",")[2]))), dtype=float)
    values = output[0, strongest].detach()
    scaled = 255 * (values - values.min()) / (values.max() - values.min())
    assert np.abs(shown - scaled.numpy()).max() <= 0.51
    assert len(found["maps"]) == min(16, output.shape[1])


@pytest.mark.parametrize("method", ["grad-cam", "occlusion", "integrated-gradients"])
def test_heat_maps(client: TestClient, network: Network, x: torch.Tensor, png: bytes, method: str) -> None:
    found = client.post("/v1/explain", params={"method": method, "class": "3"}, content=png).json()
    target = torch.tensor([3])
    if method == "grad-cam":
        maps = grad_cam(network, x, target, "layer3.0")[:, None]
        wanted = torch.nn.functional.interpolate(maps, (8, 8), mode="bilinear")[0, 0]
    elif method == "occlusion":
        wanted = occlusion(network, x, target, 2, 1)[0].clamp_min(0)
    else:
        wanted = integrated_gradients(network, x, target, 0.0, 32)[0].sum(0).abs().detach()
    wanted = wanted / wanted.max().clamp_min(1e-30)
    assert np.abs(np.array(found["heat"]) - wanted.numpy()).max() < 1e-3
    assert (found["class"], found["method"]) == ("3", method)
    seen = Image.open(io.BytesIO(base64.b64decode(found["picture"].partition(",")[2])))
    assert np.array_equal(np.asarray(seen), read_picture(png, 1)[0].numpy())


def test_names_that_are_not_there(client: TestClient, png: bytes) -> None:
    for way, params, words in (
        ("/v1/explain", {"method": "gradcam"}, "nearest: 'grad-cam'"),
        ("/v1/explain", {"class": "33"}, "nearest: '3'"),
        ("/v1/unit", {"unit": "layer1.9"}, "nearest: 'layer1."),
        ("/v1/unit", {}, "unit: Field required"),
    ):
        found = client.post(way, params=params, content=png)
        assert found.status_code == 422
        assert words in found.json()["error"]
    assert client.post("/v1/unit", params={"unit": "layer1.0"}).status_code == 422


def test_lesions_and_predictions_at_once_leave_each_other_alone(client: TestClient, png: bytes, text: str) -> None:
    """Also on torch, whose surgery works on the module itself: predictions are another copy's."""
    whole = client.post("/v1/predict", content=png).json()["predictions"]
    plans = [{"off": ["layer1.0"]}, {"off": ["layer1.1", "layer2.1"]}, {"swap": [["layer1.0", "layer1.1"]]}, {}]
    alone = [client.post("/v1/lesion", json={"image": text, **plan}).json() for plan in plans]

    def predict(_: int) -> object:
        return client.post("/v1/predict", content=png).json()["predictions"]

    def lesion(number: int) -> object:
        return client.post("/v1/lesion", json={"image": text, **plans[number % len(plans)]}).json()

    with ThreadPoolExecutor(6) as pool:
        predicted, cut = pool.map(predict, range(24)), pool.map(lesion, range(24))
        assert all(same(found, whole) for found in predicted)
        assert all(found == alone[number % len(plans)] for number, found in enumerate(cut))


def same(found: object, wanted: object) -> bool:
    """Equal up to rounding, which the size of a batch may change."""
    (left,), (right,) = found, wanted  # type: ignore[misc]
    names = [[row["name"] for row in each["classes"]] for each in (left, right)]
    numbers = [[row["probability"] for row in each["classes"]] for each in (left, right)]
    return names[0] == names[1] and numbers[0] == pytest.approx(numbers[1], abs=1e-5)
