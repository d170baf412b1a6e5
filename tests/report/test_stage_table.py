"""Stage tables, compared with Table 1 of He et al. 2015."""

import pytest

from reslab.nn.cost import layer_table
from reslab.nn.factory import create_model
from reslab.report.format import format_shape
from reslab.report.render import render_page
from reslab.report.stage_table import Bracket, StageTablePage, render_markdown, render_text, stage_table
from reslab.spec.zoo import ARCHS

# He et al. 2015, arXiv:1512.03385, Table 1, column by column: blocks of conv2_x to conv5_x, and FLOPs in 10^9. Option A
# and the stride in the first 1x1 convolution, as in the paper.
PAPER = {
    "resnet18_a": ((2, 2, 2, 2), 1.8),
    "resnet34_a": ((3, 4, 6, 3), 3.6),
    "resnet50_v1": ((3, 4, 6, 3), 3.8),
    "resnet101_v1": ((3, 4, 23, 3), 7.6),
    "resnet152_v1": ((3, 8, 36, 3), 11.3),
}
BASIC = (("3×3, 64", "3×3, 64"), ("3×3, 128", "3×3, 128"), ("3×3, 256", "3×3, 256"), ("3×3, 512", "3×3, 512"))
BOTTLENECK = (
    ("1×1, 64", "3×3, 64", "1×1, 256"),
    ("1×1, 128", "3×3, 128", "1×1, 512"),
    ("1×1, 256", "3×3, 256", "1×1, 1024"),
    ("1×1, 512", "3×3, 512", "1×1, 2048"),
)
FIVE = [ARCHS[name] for name in PAPER]


def count_macs(name: str) -> int:
    import torch

    with torch.device("meta"):
        model = create_model(name)
    return sum(layer.macs for layer in layer_table(model, (3, 224, 224)))


def test_table_1_of_he_et_al_2015() -> None:
    table = stage_table(FIVE)
    assert [(row.name, row.output) for row in table.rows] == [
        ("conv1", "112×112"),
        ("conv2_x", "56×56"),
        ("conv3_x", "28×28"),
        ("conv4_x", "14×14"),
        ("conv5_x", "7×7"),
        ("head", "1×1"),
    ]
    # What the paper prints once for all columns.
    assert [row.shared for row in table.rows] == [
        ("7×7, 64, stride 2",),
        ("3×3 max pool, stride 2",),
        (),
        (),
        (),
        ("average pool, 1000-d fc",),
    ]
    for column, (name, (depths, _)) in enumerate(PAPER.items()):
        blocks = BASIC if name in ("resnet18_a", "resnet34_a") else BOTTLENECK
        expected = [(Bracket(lines, depth),) for lines, depth in zip(blocks, depths, strict=True)]
        assert [row.cells[column] for row in table.rows[1:5]] == expected, name


@pytest.mark.parametrize("name", PAPER)
def test_flops_of_table_1(name: str) -> None:
    """The paper prints one decimal; of 3.858 it prints 3.8, the others are rounded."""
    reported = PAPER[name][1]
    assert reported - 0.05 <= count_macs(name) / 1e9 <= reported + (0.06 if name == "resnet50_v1" else 0.05)


def test_five_networks_fit_in_80_columns() -> None:
    text = render_text(stage_table(FIVE, [10**9] * 5))
    assert max(map(len, text.splitlines())) <= 80
    for line in (
        "conv3_x 28×28   ⎡3×3,128⎤   ⎡3×3,128⎤   ⎡1×1,128⎤    ⎡1×1,128⎤     ⎡1×1,128⎤",
        "                ⎣3×3,128⎦×2 ⎣3×3,128⎦×4 ⎢3×3,128⎥×4  ⎢3×3,128⎥×4   ⎢3×3,128⎥×8",
        "FLOPs           1.00×10⁹    1.00×10⁹    1.00×10⁹     1.00×10⁹      1.00×10⁹",
    ):
        assert line in text.splitlines()


def test_more_networks_follow_in_further_tables() -> None:
    text = render_text(
        stage_table([ARCHS[name] for name in ("resnext50_32x4d", "convnext_tiny", "resnet50d", "res2net50_26w_4s")])
    )
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("layer ") == 2
    assert "⎢3×3, 128, C=32⎥×3" in text
    assert "⎡d7×7, 96⎤" in text
    assert "⎢3×3, 104, res2(4)⎥×3" in text


def test_networks_of_other_sizes_and_depths() -> None:
    table = stage_table([ARCHS["resnet18"], ARCHS["resnet20_cifar"]])
    rows = {row.name: row for row in table.rows}
    assert rows["conv2_x"].output == ""
    assert rows["conv2_x"].cells[1] == ("32×32:", Bracket(("3×3, 16", "3×3, 16"), 3))
    assert rows["conv5_x"].cells == ((Bracket(("3×3, 512", "3×3, 512"), 2),), ())


def test_markdown_and_html() -> None:
    table = stage_table(FIVE, [10**9] * 5)
    markdown = render_markdown(table)
    assert "⎡3×3, 64⎤<br>⎣3×3, 64⎦×2" in markdown
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    html = render_page(StageTablePage(table))
    assert html.count('class="bracket"') == 20
    assert (
        '<span class="bracket"><span>1×1, 512</span><span>3×3, 512</span><span>1×1, 2048</span></span><span>×3' in html
    )


@pytest.mark.parametrize("part", range(3))
def test_every_network_has_a_table(part: int) -> None:
    for name in list(ARCHS)[part::3]:
        table = stage_table([ARCHS[name]], [10**9])
        assert max(map(len, render_text(table).splitlines())) <= 80, name
        counts = [sum(part.count for part in row.cells[0] if isinstance(part, Bracket)) for row in table.rows]
        is_shortened = any("..." in row.cells[0] for row in table.rows)
        assert is_shortened or sum(counts) == ARCHS[name].num_blocks, name
        (arch_values,) = table.to_dicts()
        assert arch_values["stages"][-1]["output"] in (
            format_shape((1,) * ARCHS[name].dims),
            *(row.output for row in table.rows),
        )
