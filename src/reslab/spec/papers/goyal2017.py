"""Goyal et al. 2017, Accurate, Large Minibatch SGD (arXiv:1706.02677): the last norm of each branch starts at zero."""

from reslab.spec.papers.presets import imagenet_presets
from reslab.spec.study import Claim, ReportedValue, RowSpec, Study

_PAPER = "Goyal et al. 2017, arXiv:1706.02677"
_LARGE_BATCH = ("batch_size=8192", "optimizer.lr=3.2")


_PRESETS = imagenet_presets("3, 4, 6, 3")
_LARGE_BATCH_PRESETS = imagenet_presets(
    "3, 4, 6, 3",
    short_steps=(
        "batch_size=1024",
        "optimizer.lr=0.8",
        "duration=125 steps",
        "schedule.name=multistep",
        "schedule.milestones=84 steps,109 steps",
        "schedule.warmup=20 steps",
    ),
    short_steps_text="125 steps of 1,024 with a warmup",
)


def _row(name: str, gamma: int, large_batch: bool, value: float, std: float) -> RowSpec:
    return RowSpec(
        name, "resnet50", "imagenet", "goyal2017", (f"last_norm_weight={gamma}",),
        overrides=_LARGE_BATCH if large_batch else (), seeds=5,
        reported=ReportedValue(
            value, "mean of 5, each the median of its last 5 epochs", "one crop of 224 pixels", f"{_PAPER}, Table 2b",
            std, provenance="verified",
        ),
        presets=_LARGE_BATCH_PRESETS if large_batch else _PRESETS,
    )  # fmt: skip


GOYAL2017: tuple[Study, ...] = (
    Study(
        name="goyal2017/table2b",
        title="Initializing the last norm of each branch at zero helps, with small batches and large",
        reference=f"{_PAPER}, Table 2b",
        rows=(
            _row("gamma-1-batch-256", 1, False, 23.84, 0.18),
            _row("gamma-0-batch-256", 0, False, 23.60, 0.12),
            _row("gamma-1-batch-8192", 1, True, 24.11, 0.07),
            _row("gamma-0-batch-8192", 0, True, 23.74, 0.09),
        ),
        presets=_PRESETS,
        claims=(
            Claim(
                "initializing at zero lowers the test error with batches of 256",
                "gamma-0-batch-256",
                "<",
                "gamma-1-batch-256",
                "test_error",
            ),
            Claim(
                "initializing at zero lowers the test error with batches of 8,192",
                "gamma-0-batch-8192",
                "<",
                "gamma-1-batch-8192",
                "test_error",
            ),
            Claim(
                "a batch of 8,192 reaches the test error of 256",
                "gamma-0-batch-8192",
                "within",
                "gamma-0-batch-256",
                "test_error",
                margin=0.5,
            ),
        ),
        differences=(
            "the weights of the last step are evaluated; the paper takes the median of the last 5 epochs of each run",
            "BatchNorm normalizes over all images of a process, in the paper over 32; biases have no weight decay",
        ),
    ),
)
