"""Lesions, units, heat maps: each equals what the functions of `analysis` give on a network of its own."""

import base64
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

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
from reslab.deploy.service.app import make_app
from reslab.deploy.service.settings import ServiceSettings
from reslab.nn.network import Network
from reslab.nn.weights import save_weights
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
    "plan",
    [
        {"off": ["layer9.0"]},
        {"off": "layer1.0"},
        {"off": [1]},
        {"swap": [["layer1.0"]]},
        {"swap": {"a": 1}},
        {"off": None},
        {"off": ["layer1.0"] * 1001},
        {"swap": [["layer1.0", "layer1.1"]] * 1001},
        {"off": ["x" * 100_000]},
    ],
)
def test_a_plan_that_means_nothing_is_refused(client: TestClient, text: str, plan: dict[str, object]) -> None:
    found = client.post("/v1/lesion", json={"image": text, **plan})
    assert found.status_code == 422, found.text
    assert len(found.text) < 3000


def test_a_network_that_has_diverged_says_so(
    runs: list[Run], settings: ServiceSettings, png: bytes, tmp_path: Path
) -> None:
    """No number is no JSON, and zeros would be made up."""
    folder = tmp_path / "nan"
    shutil.copytree(runs[0].path, folder)
    network = load(runs[0])
    with torch.no_grad():
        network.conv1.weight.fill_(torch.nan)
    save_weights(folder / "model.safetensors", network)
    with TestClient(make_app([folder], settings)) as client:
        for way in ("/v1/predict", "/v1/explain", "/v1/lesion", "/v1/lesion/curve"):
            found = client.post(way, content=png)
            assert (found.status_code, "whose answer is numbers; got: nan" in found.json()["error"]) == (500, True), way
        assert client.post("/v1/unit?unit=layer1.0", content=png).status_code == 200
        assert client.get("/v1/models/nan/run").status_code == 200


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


def heat(network: Network, x: torch.Tensor, label: int, method: str) -> torch.Tensor:
    """(8, 8) with 1 the largest."""
    target = torch.tensor([label])
    if method == "grad-cam":
        maps = grad_cam(network, x, target, "layer3.0")[:, None]
        found = torch.nn.functional.interpolate(maps, (8, 8), mode="bilinear")[0, 0]
    elif method == "occlusion":
        found = occlusion(network, x, target, 2, 1)[0].clamp_min(0)
    else:
        found = integrated_gradients(network, x, target, 0.0, 32)[0].sum(0).abs().detach()
    return found / found.max().clamp_min(1e-30)


METHODS = ["grad-cam", "occlusion", "integrated-gradients"]


@pytest.mark.parametrize("method", METHODS)
def test_heat_maps(client: TestClient, network: Network, x: torch.Tensor, png: bytes, method: str) -> None:
    found = client.post("/v1/explain", params={"method": method, "class": "3"}, content=png).json()
    assert np.abs(np.array(found["heat"]) - heat(network, x, 3, method).numpy()).max() < 1e-3
    assert (found["class"], found["method"], found["refused"]) == ("3", method, [])
    seen = Image.open(io.BytesIO(base64.b64decode(found["picture"].partition(",")[2])))
    assert np.array_equal(np.asarray(seen), read_picture(png, 1)[0].numpy())


PLAN = {"off": ["layer1.1", "layer3.0"], "swap": [["layer1.0", "layer1.1"]]}


@contextmanager
def cut(network: Network) -> Iterator[None]:
    """PLAN carried out by the functions of `analysis`."""
    with swapped(network, "layer1.0", "layer1.1"), switched_off(network, ["layer1.1", "layer3.0"]):
        yield


@pytest.mark.parametrize("method", METHODS)
def test_heat_maps_are_of_the_network_as_it_is_cut(
    client: TestClient, network: Network, x: torch.Tensor, text: str, method: str
) -> None:
    whole = client.post("/v1/explain", params={"method": method, "class": "3"}, json={"image": text}).json()
    found = client.post("/v1/explain", params={"method": method, "class": "3"}, json={"image": text, **PLAN}).json()
    with cut(network):
        wanted = heat(network, x, 3, method).numpy()
        assert told(found["classes"]) == pytest.approx(probabilities(network, x), abs=1e-6)
        first = max(probabilities(network, x).items(), key=lambda pair: pair[1])[0]
    assert np.abs(np.array(found["heat"]) - wanted).max() < 1e-3
    assert np.abs(np.array(whole["heat"]) - wanted).max() > 1e-2
    unnamed = client.post("/v1/explain", params={"method": method}, json={"image": text, **PLAN}).json()
    assert unnamed["class"] == first
    again = client.post("/v1/explain", params={"method": method, "class": "3"}, json={"image": text}).json()
    assert again == whole


@pytest.mark.parametrize("name", ["layer1.0", "layer1.1", "layer2.0"])
def test_a_unit_is_told_as_it_stands_in_the_network_that_is_cut(
    client: TestClient, network: Network, x: torch.Tensor, text: str, name: str
) -> None:
    whole = client.post("/v1/unit", params={"unit": name}, json={"image": text}).json()
    found = client.post("/v1/unit", params={"unit": name}, json={"image": text, **PLAN}).json()
    place = [each for each, _ in network.units()].index(name)
    with cut(network):
        logits, outputs = run_with_gradients(network, x)
        logits.max().backward()
        with torch.no_grad(), unit_runs(network) as runs:
            network(x)
        with torch.no_grad():
            parts = take_apart(dict(network.units())[name], runs[place].input)  # type: ignore[arg-type]
    off = name in PLAN["off"]
    assert found["branch"] == pytest.approx(0.0 if off else float(parts.branch.std(correction=0)), rel=1e-4)
    assert found["shortcut"] == pytest.approx(float(parts.shortcut.std(correction=0)), rel=1e-4)
    assert found["response"] == pytest.approx(float(runs[place].output.std(correction=0)), rel=1e-4)
    gradient = outputs[place].grad
    assert gradient is not None
    assert found["gradient"] == pytest.approx(float(gradient.norm()), rel=1e-4)
    changed = ("branch", "maps") if name == "layer1.0" else ("response", "gradient", "maps")
    assert all(found[key] != whole[key] for key in changed)


def run_with_gradients(network: Network, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits, and each unit's output, whose gradient is kept."""
    outputs: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, given: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output.retain_grad()
        outputs.append(output)
        return output.clone()

    handles = [unit.register_forward_hook(keep) for _, unit in network.units()]
    logits = network(x)
    for handle in handles:
        handle.remove()
    return logits, outputs


def test_a_plain_unit_that_is_off_lets_all_pass(client: TestClient, text: str) -> None:
    sent = {"image": text, "off": ["layer1.1", "layer2.0"]}
    found = client.post("/v1/unit", params={"unit": "layer1.1", "model": "plain"}, json=sent).json()
    assert (found["branch"], found["shortcut"]) == (0.0, found["response"])
    assert [row["unit"] for row in found["refused"]] == ["layer2.0"]
    assert client.post("/v1/unit", params={"unit": "layer1.1"}, json={"image": text, "off": ["x"]}).status_code == 422


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
