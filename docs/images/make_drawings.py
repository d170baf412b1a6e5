"""Draw the figures of docs/reference/grammar.md: orders, shortcuts, merges and well-known blocks, and two networks.

python docs/images/make_drawings.py
"""

from dataclasses import replace
from pathlib import Path

from reslab.report.drawings.block import draw_block
from reslab.report.drawings.canvas import Drawing, render_svg
from reslab.report.drawings.network import draw_network
from reslab.spec.arch import Arch
from reslab.spec.shapes import network_layers
from reslab.spec.zoo import ARCHS

FOLDER = Path(__file__).parent
_GAP = 40
_SMALL = ARCHS["resnet20_cifar"]

# The blocks of each figure: a title, the network, and the block's name.
ORDERS = [
    (f"({letter}) {order}", replace(_SMALL, order=order), "layer1.1")
    for letter, order in zip(
        "abcde", ("original", "bn-after-add", "relu-before-add", "relu-preact", "full-preact"), strict=True
    )
]
SHORTCUTS = [
    (shortcut, replace(_SMALL, shortcut=shortcut), "layer2.0")
    for shortcut in ("pad", "avg-pad", "project", "avg-project")
]
MERGES = [
    ("none", replace(_SMALL, merge="none"), "layer1.1"),
    ("scale(0.5, 0.5)", replace(_SMALL, merge="scale(0.5, 0.5)"), "layer1.1"),
    ("gate(-6)", replace(_SMALL, merge="gate(-6)"), "layer1.1"),
    ("shortcut-gate(-6)", replace(_SMALL, merge="shortcut-gate(-6)"), "layer1.1"),
]
BLOCKS = [
    (name, ARCHS[name], "layer2.1")
    for name in ("resnet50", "resnext50_32x4d", "seresnet50", "res2net50_26w_4s", "convnext_tiny")
]
FIGURES = {"orders": ORDERS, "shortcuts": SHORTCUTS, "merges": MERGES, "blocks": BLOCKS}
NETWORKS = ("resnet50",)


def draw_figure(name: str, blocks: list[tuple[str, Arch, str]]) -> Drawing:
    """Return blocks side by side."""
    drawings = [draw_block(network_layers(arch).block(block), arch, title) for title, arch, block in blocks]
    words = " ".join(f"{title}: {drawing.description}" for (title, _, _), drawing in zip(blocks, drawings, strict=True))
    figure = Drawing(f"The grammar of a block: {name}", words)
    x = 0.0
    for drawing in drawings:
        figure.add(*drawing.moved_to(x, 0))
        x += drawing.size[0] + _GAP
    return figure


def draw_all() -> dict[str, str]:
    """Return the text of each file by its name."""
    figures = {f"{name}.svg": render_svg(draw_figure(name, blocks)) for name, blocks in FIGURES.items()}
    return figures | {f"{name}.svg": render_svg(draw_network(ARCHS[name])) for name in NETWORKS}


if __name__ == "__main__":
    for file_name, text in draw_all().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
