"""`/v1/explain`: each heatmap equals that of `analysis`, for the intact and the ablated network."""

import base64
import io

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from reslab.analysis.attribution import grad_cam, integrated_gradients, occlusion
from reslab.data.decode import read_image
from reslab.nn.network import ResidualNetwork
from tests.deploy.server.expected import PLAN, cut, probabilities, probability_by_name


def heat(network: ResidualNetwork, x: torch.Tensor, label: int, method: str) -> torch.Tensor:
    """Scale heatmaps (8, 8) to a maximum of 1."""
    target = torch.tensor([label])
    if method == "grad-cam":
        maps = grad_cam(network, x, target, "layer3.0")[:, None]
        result = torch.nn.functional.interpolate(maps, (8, 8), mode="bilinear")[0, 0]
    elif method == "occlusion":
        result = occlusion(network, x, target, 2, 1)[0].clamp_min(0)
    else:
        result = integrated_gradients(network, x, target, 0.0, 32)[0].sum(0).abs().detach()
    return result / result.max().clamp_min(1e-30)


METHODS = ["grad-cam", "occlusion", "integrated-gradients"]


@pytest.mark.parametrize("method", METHODS)
def test_heat_maps(client: TestClient, network: ResidualNetwork, x: torch.Tensor, png: bytes, method: str) -> None:
    response = client.post("/v1/explain", params={"method": method, "class": "3"}, content=png).json()
    assert np.abs(np.array(response["heatmap"]) - heat(network, x, 3, method).numpy()).max() < 1e-3
    assert (response["class"], response["method"], response["rejected"]) == ("3", method, [])
    seen = Image.open(io.BytesIO(base64.b64decode(response["image"].partition(",")[2])))
    assert np.array_equal(np.asarray(seen), read_image(png, 1)[0].numpy())


@pytest.mark.parametrize("method", METHODS)
def test_heat_maps_are_of_the_network_as_it_is_cut(
    client: TestClient, network: ResidualNetwork, x: torch.Tensor, text: str, method: str
) -> None:
    whole = client.post("/v1/explain", params={"method": method, "class": "3"}, json={"image": text}).json()
    response = client.post("/v1/explain", params={"method": method, "class": "3"}, json={"image": text, **PLAN}).json()
    with cut(network):
        expected = heat(network, x, 3, method).numpy()
        assert probability_by_name(response["classes"]) == pytest.approx(probabilities(network, x), abs=1e-6)
        first = max(probabilities(network, x).items(), key=lambda pair: pair[1])[0]
    assert np.abs(np.array(response["heatmap"]) - expected).max() < 1e-3
    assert np.abs(np.array(whole["heatmap"]) - expected).max() > 1e-2
    unnamed = client.post("/v1/explain", params={"method": method}, json={"image": text, **PLAN}).json()
    assert unnamed["class"] == first
    again = client.post("/v1/explain", params={"method": method, "class": "3"}, json={"image": text}).json()
    assert again == whole


def test_method_and_class_that_are_not_there(client: TestClient, png: bytes) -> None:
    for params, words in (({"method": "gradcam"}, "nearest: 'grad-cam'"), ({"class": "33"}, "nearest: '3'")):
        response = client.post("/v1/explain", params=params, content=png)
        assert response.status_code == 422
        assert words in response.json()["error"]
