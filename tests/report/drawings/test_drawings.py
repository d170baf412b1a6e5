"""Drawings of networks and blocks: complete, legible, and the same for the same network."""

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from reslab.report.drawings.block import describe_block, draw_block
from reslab.report.drawings.canvas import MARGIN, Bounds, Drawing, Line, Rect, Text, render_svg
from reslab.report.drawings.network import block_kinds, draw, draw_network
from reslab.spec.arch import Arch
from reslab.spec.order import ORDERS
from reslab.spec.shapes import network_layers
from reslab.spec.shortcut import SHORTCUTS
from reslab.spec.zoo import ARCHS

SVG = "{http://www.w3.org/2000/svg}"
RESNET20 = ARCHS["resnet20_cifar"]


def overlap(a: Bounds, b: Bounds) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def contains(outer: Bounds, inner: Bounds) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def segments(line: Line) -> list[Bounds]:
    pairs = zip(line.points, line.points[1:], strict=False)
    return [(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])) for a, b in pairs]


def collisions(drawing: Drawing) -> list[tuple[str, object]]:
    """Return texts that overlap a text or a line, or that cross the outline of a box."""
    elements = [element for element in drawing.elements if isinstance(element, Text)]
    texts = sorted(((element.bounds, element) for element in elements), key=lambda pair: pair[0])
    boxes = [element.bounds for element in drawing.elements if isinstance(element, Rect)]
    lines = [part for element in drawing.elements if isinstance(element, Line) for part in segments(element)]
    result: list[tuple[str, object]] = []
    for i, (bounds, text) in enumerate(texts):
        for other_bounds, other in texts[i + 1 :]:
            if other_bounds[0] >= bounds[2]:
                break
            if overlap(bounds, other_bounds):
                result.append((text.text, other.text))
        result += [(text.text, box) for box in boxes if overlap(bounds, box) and not contains(box, bounds)]
        result += [(text.text, line) for line in lines if overlap(bounds, line)]
    return result


def labels(drawing: Drawing) -> list[str]:
    return [element.text for element in drawing.elements if isinstance(element, Text)]


@pytest.mark.parametrize("part", range(4))
def test_every_network_is_drawn_legibly(part: int) -> None:
    for name in list(ARCHS)[part::4]:
        drawing = draw_network(ARCHS[name])
        assert collisions(drawing) == [], name
        root = ElementTree.fromstring(render_svg(drawing))
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        left, top, right, bottom = drawing.bounds
        assert (width, height) == (math.ceil(right - left + 2 * MARGIN), math.ceil(bottom - top + 2 * MARGIN))
        assert [element.text for element in root.iter(f"{SVG}text")] == labels(drawing)


# The rest of the grammar, which no network of the zoo uses.
VARIANTS = [
    *(
        replace(RESNET20, order=order, norm="none" if order == "fixup" else "batch")
        for order in ORDERS
        if "book" not in order
    ),
    *(replace(RESNET20, shortcut=shortcut) for shortcut in SHORTCUTS if shortcut != "identity"),
    *(
        replace(RESNET20, merge=merge, shortcut=shortcut)
        for merge in ("gate(-6)", "shortcut-gate(-6)")
        for shortcut in ("pad", "project-all")
    ),
    replace(RESNET20, merge="dropout(0.5) drop-path(0.1) layerscale(1e-6) scale(0.5, 1/sqrt(L))"),
    replace(RESNET20, order="conv norm act | conv norm cbam gc eca(3) spatial drop2d(0.1) + act", conv="dirac"),
    replace(RESNET20, dims=1, image_size=(512,)),
    replace(RESNET20, dims=3, image_size=(16, 32, 32), replace_stride_with_dilation=(False, True)),
    replace(ARCHS["resnet50"], depths=(2, 2, 2, 2), stem="", head="avgpool"),
]


@pytest.mark.parametrize(
    "arch", VARIANTS, ids=lambda arch: f"{arch.order} {arch.shortcut} {arch.merge} {arch.dims}"[:50]
)
def test_the_whole_grammar_is_drawn_legibly(arch: Arch) -> None:
    drawing = draw_network(arch)
    assert collisions(drawing) == []
    ElementTree.fromstring(render_svg(drawing))
    for kind in block_kinds(network_layers(arch)):
        assert collisions(draw_block(kind.example, arch, kind.names[0])) == []


def test_a_bottleneck_shows_its_convolutions_and_shapes() -> None:
    texts = labels(draw_block(network_layers(ARCHS["resnet50"]).block("layer2.0"), ARCHS["resnet50"], "layer2.0"))
    assert [text for text in texts if "conv" in text] == [
        "1×1 conv, 128",
        "3×3 conv, 128",
        "1×1 conv, 512",
        "1×1 conv, 512",
    ]
    # Into the block and the shortcut; between the convolutions; out of both paths, the merge and the block.
    shapes = ["256×56×56"] * 2 + ["128×56×56", "128×28×28"] + ["512×28×28"] * 4
    assert sorted(text for text in texts if re.fullmatch(r"\d+×\d+×\d+", text)) == sorted(shapes)
    assert texts.count("stride 2") == 2


@pytest.mark.parametrize(
    ("name", "block", "expected", "absent"),
    [
        ("resnext50_32x4d", "layer1.1", "32 groups", "stride 2"),
        ("convnext_tiny", "layer1.0", "depthwise", "batch norm"),
        ("seresnet50", "layer1.1", "squeeze-and-excitation", "stride 2"),
        ("plain34", "layer1.0", "3×3 conv, 64", "identity"),
        ("resnet34", "layer1.0", "identity", "1×1 conv, 64"),
        ("pyramidnet110_cifar", "layer2.0", "1 channel of zeros", "identity"),
        ("skresnet50", "layer1.1", "selective kernel: dilations 1, 2", "stride 2"),
        ("res2net50_26w_4s", "layer1.1", "Res2Net: 4 parts of 26", "stride 2"),
        ("resnet50d", "layer2.0", "2×2 average pool", "identity"),
        ("nf_resnet50", "layer1.1", "× 0.2", "batch norm"),
        ("resnet110_sd_cifar", "layer3.17", "kept with p = 0.5", "drop path"),
    ],
)
def test_what_a_block_says(name: str, block: str, expected: str, absent: str) -> None:
    texts = labels(draw_block(network_layers(ARCHS[name]).block(block), ARCHS[name], block))
    assert expected in texts
    assert absent not in texts


def test_the_five_orders_of_he_et_al_2016() -> None:
    expected = {
        "original": ("conv, norm, ReLU, conv, norm", "ReLU"),
        "bn-after-add": ("conv, norm, ReLU, conv", "norm, ReLU"),
        "relu-before-add": ("conv, norm, ReLU, conv, norm, ReLU", ""),
        "relu-preact": ("ReLU, conv, norm, ReLU, conv, norm", ""),
        "full-preact": ("norm, ReLU, conv, norm, ReLU, conv", ""),
    }
    for order, (branch, post) in expected.items():
        arch = replace(RESNET20, order=order)
        text = describe_block(network_layers(arch).block("layer1.1"), arch)
        text = text.replace("3×3 conv, 16", "conv").replace("batch norm", "norm")
        assert f"Branch: {branch}. Shortcut: identity." in text
        assert (f"After the merge: {post}." in text) == bool(post)


def test_blocks_of_a_kind_are_drawn_once() -> None:
    kinds = block_kinds(network_layers(ARCHS["resnet50"]))
    assert [(kind.letter, kind.names[0], len(kind.names)) for kind in kinds] == [
        ("A", "layer1.0", 1),
        ("B", "layer1.1", 12),
        ("C", "layer2.0", 3),
    ]
    texts = labels(draw_network(ARCHS["resnet50"]))
    assert {"A + 2 B", "C + 3 B", "C + 5 B", "C + 2 B"} <= set(texts)


def test_drawings_are_accessible_follow_dark_mode_and_do_not_vary() -> None:
    text = draw("resnet18", block="layer2.0")
    assert text == draw(ARCHS["resnet18"], block="layer2.0")
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    assert root.findtext(f"{SVG}title") == "resnet18, layer2.0"
    assert "Shortcut: 1×1 conv, 128, batch norm." in (root.findtext(f"{SVG}desc") or "")
    assert "prefers-color-scheme:dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_files(tmp_path: Path) -> None:
    text = draw("resnet20_cifar", tmp_path / "network.svg")
    assert (tmp_path / "network.svg").read_text(encoding="utf-8") == text
    draw("resnet20_cifar", tmp_path / "block.png", block="layer1.0")
    assert (tmp_path / "block.png").read_bytes().startswith(b"\x89PNG")


def test_of_a_network_for_segmentation_the_backbone_is_drawn() -> None:
    text = draw("fcn_resnet50")
    assert ">fcn_resnet50, backbone</text>" in text
    assert ">dilation 2</text>" in text
    assert ">head</text>" not in text


def test_names_are_escaped() -> None:
    arch = replace(RESNET20, name="<b> & 'c'", reference="<script>")
    root = ElementTree.fromstring(render_svg(draw_network(arch)))
    assert "<b> & 'c'" in [element.text for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("path", "block", "expected"),
    [
        ("network.jpg", "", r"\.svg or \.png.*network\.jpg.*network\.svg"),
        (None, "layer1.9", r"layer1\.9.*layer1\.2"),
    ],
)
def test_mistakes(tmp_path: Path, path: str | None, block: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        draw("resnet20_cifar", tmp_path / path if path else None, block=block)
