"""`/v1/block`: the details of a block equal those of `analysis`, intact and ablated."""

import base64
import io

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from reslab.analysis.layers import decompose_block, record_block_calls
from reslab.nn.network import ResidualNetwork
from reslab.report.drawings.block import draw_block
from reslab.report.drawings.canvas import render_svg
from reslab.spec.shapes import network_layers
from tests.deploy.server.expected import PLAN, cut


def test_block_details_equal_the_decomposition_and_the_gradient(
    client: TestClient, network: ResidualNetwork, x: torch.Tensor, png: bytes
) -> None:
    response = client.post("/v1/block", params={"block": "layer1.1"}, content=png).json()
    with torch.no_grad(), record_block_calls(network) as runs:
        network(x)
    unit, incoming = network.layer1[1], runs[1].input
    with torch.no_grad():
        parts = decompose_block(unit, incoming)
    output = unit(incoming).detach().requires_grad_()
    logits = network.forward_tail(network.layer3(network.layer2(output)))
    logits.max().backward()
    assert output.grad is not None
    expected = (parts.output.std(correction=0), parts.branch.std(correction=0), parts.shortcut.std(correction=0))
    assert [response[name] for name in ("output_std", "branch_std", "shortcut_std")] == pytest.approx(
        [float(value) for value in expected], rel=1e-4
    )
    assert response["gradient_norm"] == pytest.approx(float(output.grad.norm()), rel=1e-4)
    strongest = response["channels"][0]
    shown = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(response["feature_maps"][0].partition(",")[2]))), dtype=float
    )
    values = output[0, strongest].detach()
    scaled = 255 * (values - values.min()) / (values.max() - values.min())
    assert np.abs(shown - scaled.numpy()).max() <= 0.51
    assert len(response["feature_maps"]) == min(16, output.shape[1])


@pytest.mark.parametrize("name", ["layer1.0", "layer1.1", "layer2.0"])
def test_a_block_is_described_as_it_is_in_the_ablated_network(
    client: TestClient, network: ResidualNetwork, x: torch.Tensor, text: str, name: str
) -> None:
    whole = client.post("/v1/block", params={"block": name}, json={"image": text}).json()
    response = client.post("/v1/block", params={"block": name}, json={"image": text, **PLAN}).json()
    index = [each for each, _ in network.blocks()].index(name)
    with cut(network):
        logits, outputs = run_with_gradients(network, x)
        logits.max().backward()
        with torch.no_grad(), record_block_calls(network) as runs:
            network(x)
        with torch.no_grad():
            parts = decompose_block(dict(network.blocks())[name], runs[index].input)  # type: ignore[arg-type]
    off = name in PLAN["off"]
    assert response["branch_std"] == pytest.approx(0.0 if off else float(parts.branch.std(correction=0)), rel=1e-4)
    assert response["shortcut_std"] == pytest.approx(float(parts.shortcut.std(correction=0)), rel=1e-4)
    assert response["output_std"] == pytest.approx(float(runs[index].output.std(correction=0)), rel=1e-4)
    gradient = outputs[index].grad
    assert gradient is not None
    assert response["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
    changed = ("branch_std", "feature_maps") if name == "layer1.0" else ("output_std", "gradient_norm", "feature_maps")
    assert all(response[key] != whole[key] for key in changed)


def run_with_gradients(network: ResidualNetwork, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the logits, and each block's output with its gradient."""
    outputs: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, given: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output.retain_grad()
        outputs.append(output)
        return output.clone()

    handles = [unit.register_forward_hook(keep) for _, unit in network.blocks()]
    logits = network(x)
    for handle in handles:
        handle.remove()
    return logits, outputs


def test_a_plain_unit_that_is_off_lets_all_pass(client: TestClient, text: str) -> None:
    sent = {"image": text, "off": ["layer1.1", "layer2.0"]}
    response = client.post("/v1/block", params={"block": "layer1.1", "model": "plain"}, json=sent).json()
    assert (response["branch_std"], response["shortcut_std"]) == (0.0, response["output_std"])
    assert [row["block"] for row in response["rejected"]] == ["layer2.0"]
    assert client.post("/v1/block", params={"block": "layer1.1"}, json={"image": text, "off": ["x"]}).status_code == 422


def test_unit_that_is_not_there_or_not_reported(client: TestClient, png: bytes) -> None:
    for params, words in (({"block": "layer1.9"}, "nearest: 'layer1."), ({}, "block: Field required")):
        response = client.post("/v1/block", params=params, content=png)
        assert response.status_code == 422
        assert words in response.json()["error"]
    assert client.post("/v1/block", params={"block": "layer1.0"}).status_code == 422


def test_a_block_is_drawn(client: TestClient, network: ResidualNetwork) -> None:
    model = client.get("/v1/models").json()["models"][0]["name"]
    response = client.get(f"/v1/models/{model}/blocks/layer2.0.svg")
    assert response.headers["content-type"].startswith("image/svg+xml")
    assert response.text == render_svg(
        draw_block(network_layers(network.arch).block("layer2.0"), network.arch, "layer2.0"), has_background=False
    )
    for path in (f"{model}/blocks/layer9.0.svg", "nobody/blocks/layer1.0.svg"):
        missing = client.get(f"/v1/models/{path}")
        assert missing.status_code == 404
    assert "layer1.0" in client.get(f"/v1/models/{model}/blocks/layer1.9.svg").text


def test_the_parts_of_a_block_are_shown_in_the_gray_scale_of_the_whole_block(
    client: TestClient, network: ResidualNetwork, x: torch.Tensor, text: str
) -> None:
    sent = {"image": text, "scale": {"layer1.1": 0.5}}
    response = client.post("/v1/block", params={"block": "layer1.1"}, json=sent).json()
    with torch.no_grad(), record_block_calls(network) as calls:
        network(x)
    with torch.no_grad():
        parts = decompose_block(network.layer1[1], calls[1].input)
        output = network.layer1[1].post(parts.shortcut + 0.5 * parts.branch)
    shown = response["parts"]
    channel = int((parts.shortcut + parts.branch)[0].square().mean((1, 2)).argmax())
    assert (shown["channel"], shown["factor"]) == (channel, 0.5)
    whole = torch.stack([part[0, channel] for part in (parts.shortcut, parts.branch, parts.output)])
    options = {"shortcut": parts.shortcut, "branch": 0.5 * parts.branch, "output": output}
    for name, part in options.items():
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[name].partition(",")[2]))), dtype=float)
        gray = (255 * (part[0, channel] - whole.min()) / (whole.max() - whole.min())).clamp(0, 255)
        assert np.abs(image - gray.numpy()).max() <= 0.52
    assert response["branch_std"] == pytest.approx(float((0.5 * parts.branch).std(correction=0)), rel=1e-4)


def test_a_plain_block_has_no_parts(client: TestClient, png: bytes) -> None:
    response = client.post("/v1/block", params={"block": "layer1.1", "model": "plain"}, content=png).json()
    assert response["parts"] is None
