"""Goyal et al. 2017, Accurate, Large Minibatch SGD (arXiv:1706.02677): the branches' last norm from zero."""

from dataclasses import replace

from reslab.spec.papers.presets import four_stages
from reslab.spec.study import Claim, Cuts, Reported, Row, Study

_PAPER = "Goyal et al. 2017, arXiv:1706.02677"
_LARGE = ("batch=8192", "optimizer.lr=3.2")


def _cuts(large: bool) -> Cuts:
    cuts = four_stages("3, 4, 6, 3")
    if not large:
        return cuts
    settings = tuple(
        setting
        for setting in cuts.short.settings
        if not setting.startswith(("batch=", "optimizer.lr", "length", "schedule."))
    )
    more = (
        "batch=1024",
        "optimizer.lr=0.8",
        "length=125 steps",
        "schedule.name=steps",
        "schedule.milestones=84 steps,109 steps",
        "schedule.warmup=20 steps",
    )
    words = cuts.short.words.replace("1,000 steps of 128 in one cycle", "125 steps of 1,024 with a warm-up")
    return replace(cuts, short=replace(cuts.short, words=words, settings=(*settings, *more)))


def _row(name: str, gamma: int, large: bool, value: float, std: float) -> Row:
    return Row(
        name, "resnet50", "imagenet", "goyal2017", (f"last_norm_weight={gamma}",), _LARGE if large else (), seeds=5,
        reported=Reported(
            value, "mean of 5, each the median of its last 5 epochs", "one crop of 224 pixels", f"{_PAPER}, Table 2b",
            std, confidence="read",
        ),
        cuts=_cuts(large),
    )  # fmt: skip


GOYAL2017: tuple[Study, ...] = (
    Study(
        name="goyal2017/table2b",
        title="Branches that begin at zero train better, in small batches and large",
        source=f"{_PAPER}, Table 2b",
        rows=(
            _row("gamma-1-batch-256", 1, False, 23.84, 0.18),
            _row("gamma-0-batch-256", 0, False, 23.60, 0.12),
            _row("gamma-1-batch-8192", 1, True, 24.11, 0.07),
            _row("gamma-0-batch-8192", 0, True, 23.74, 0.09),
        ),
        cuts=_cuts(False),
        claims=(
            Claim(
                "from zero is better in batches of 256",
                "gamma-0-batch-256",
                "<",
                "gamma-1-batch-256",
                "test_error",
            ),
            Claim(
                "from zero is better in batches of 8,192",
                "gamma-0-batch-8192",
                "<",
                "gamma-1-batch-8192",
                "test_error",
            ),
            Claim(
                "a batch of 8,192 reaches what 256 does",
                "gamma-0-batch-8192",
                "within",
                "gamma-0-batch-256",
                "test_error",
                margin=0.5,
            ),
        ),
        differences=(
            "the last step is judged, the paper takes the median of the last 5 epochs of each run",
            "BatchNorm sees all pictures of a process where the paper has 32; biases are not decayed",
        ),
    ),
)
