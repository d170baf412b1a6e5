"""Textbooks: ResNet-18 on Fashion-MNIST of Zhang et al., Dive into Deep Learning; and birds against airplanes.

The latter is chapter 8 of Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch.
"""

from dataclasses import replace

from reslab.spec.papers.presets import BF16, SMOKE_DIGITS, SMOKE_OVERRIDES, SMOKE_STEPS
from reslab.spec.study import Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, ScalePreset, ScalePresets, Study

_D2L_REFERENCE = "Zhang et al., Dive into Deep Learning, Sec. 8.6 (ResNet), its printed output"
_RUNNING_AVERAGE = "running average over the last epoch"

D2L: tuple[Study, ...] = (
    Study(
        name="d2l/fashion",
        title="Dive into Deep Learning's ResNet-18 on Fashion-MNIST",
        reference=_D2L_REFERENCE,
        rows=(
            RowSpec(
                "resnet-18",
                "resnet18_d2l",
                "fashion-mnist",
                "d2l-fashion",
                seeds=3,
                reported=ReportedValue(
                    10.5,
                    "single, after 10 epochs",
                    location=_D2L_REFERENCE,
                    note="test acc 0.895",
                    provenance="verified",
                ),
                more_reported=(
                    ReportedValue(
                        0.014,
                        _RUNNING_AVERAGE,
                        "training mode",
                        _D2L_REFERENCE,
                        provenance="verified",
                        metric="train_loss",
                    ),
                    ReportedValue(
                        0.4,
                        _RUNNING_AVERAGE,
                        "training mode",
                        _D2L_REFERENCE,
                        note="train acc 0.996",
                        provenance="verified",
                        metric="train_error",
                    ),
                ),
            ),
        ),
        presets=ScalePresets(
            smoke=ScalePreset(
                f"{SMOKE_DIGITS}, one block per stage with widths 4, 8, 16 and 32, 12 steps of 32",
                ("model.depths=1,1,1,1", "model.widths=4,8,16,32", "model.stem=conv3(4) norm act", *SMOKE_OVERRIDES),
                data="digits",
                num_images=256,
                seeds=2,
            ),
            short=ScalePreset(
                "images of 28x28 pixels in place of 96x96, a stem of one 3x3 convolution with stride 2, a quarter of "
                "the widths, bf16; all 60,000 images and all 10 epochs",
                (
                    "model.stem=conv3/2(16) norm act",
                    "model.widths=16,32,64,128",
                    "train_transform=",
                    "eval_transform=",
                    *BF16,
                ),
                seeds=3,
            ),
        ),
        claims=(
            Claim("it fits the training images: training error below 1 %", "resnet-18", "<", 1.0, "train_error"),
            Claim(
                "the test error is 10.5 %, to a percentage point", "resnet-18", "within", 10.5, "test_error", margin=1.0
            ),
            Claim("it overfits: a gap of more than 5 percentage points", "resnet-18", ">", 5.0, "gap", is_ours=True),
        ),
        figures=(FigureSpec("error_curves", "Error against iterations", (FigurePanel("ResNet-18", ("resnet-18",)),)),),
        differences=(
            "in the tutorial, the last 96 images of an epoch form a smaller batch; here each epoch skips 96 images",
        ),
        notes="The tutorial's training loss and accuracy are averages over the last epoch, during training.",
        source="tutorial",
    ),
)


_REFERENCE = (
    "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, ch. 8; its notebook p1ch8/1_convolution.ipynb"
)
_SMOKE_PRESET = ScalePreset(
    f"{SMOKE_DIGITS}, 12 steps of 32",
    SMOKE_STEPS,
    data="digits",
    num_images=256,
    seeds=2,
)
_PRESETS = ScalePresets(
    smoke=_SMOKE_PRESET,
    short=ScalePreset("the book's procedure in bf16: 10,000 images, 100 epochs", BF16, seeds=3),
    full=ScalePreset("the book's procedure: 10,000 images, 100 epochs"),
)
_DEEP_PRESETS = ScalePresets(
    smoke=replace(
        _SMOKE_PRESET,
        description=f"{_SMOKE_PRESET.description}, 3 blocks of width 8",
        overrides=(*_SMOKE_PRESET.overrides, *("model.depths=3", "model.widths=8", "model.stem=conv3(8) act maxpool2")),
    ),
    short=ScalePreset("5 of 100 epochs, bf16", ("duration=5 epochs", *BF16), seeds=3),
    full=_PRESETS.full,
)
# The network, the recipe, and the accuracies on training and validation images that the notebook prints.
_ROWS = {
    "baseline": ("book_net", "book-ch8", 0.93, 0.89),
    "width": ("book_width", "book-ch8", 0.96, 0.90),
    "l2-reg": ("book_net", "book-ch8-l2", 0.90, 0.87),
    "dropout": ("book_dropout", "book-ch8-dropout", 0.89, 0.88),
    "batch-norm": ("book_batchnorm", "book-ch8-batch-norm", 1.00, 0.89),
    "depth": ("book_depth", "book-ch8", 0.95, 0.90),
    "res": ("book_res", "book-ch8", 0.97, 0.90),
    "res-deep": ("book_resdeep", "book-ch8-res-deep", 0.97, 0.86),
}


def _reported(accuracy: float, metric: str) -> ReportedValue:
    return ReportedValue(
        round(100 * (1 - accuracy), 4), "single, after 100 epochs", "never in eval mode", _REFERENCE,
        note=f"accuracy {accuracy:.2f}", provenance="verified", metric=metric,
    )  # fmt: skip


def _row(name: str, batch_statistics: bool) -> RowSpec:
    model, recipe, train_accuracy, val_accuracy = _ROWS[name]
    presets = _DEEP_PRESETS if name == "res-deep" else _PRESETS
    test_metric, train_metric = (
        ("test_error_batch", "train_error_batch") if batch_statistics else ("test_error", "train_error_eval")
    )
    return RowSpec(
        name, model, "cifar2", recipe, seeds=3, metric=test_metric, reported=_reported(val_accuracy, test_metric),
        more_reported=(_reported(train_accuracy, train_metric),), presets=presets,
    )  # fmt: skip


_HIGH_LR = replace(
    _row("batch-norm", False),
    name="batch-norm-lr-0.1",
    overrides=("optimizer.lr=0.1",),
    reported=None,
    more_reported=(),
)
_HIGH_LR_BASELINE = replace(
    _row("baseline", False), name="baseline-lr-0.1", overrides=("optimizer.lr=0.1",), reported=None, more_reported=()
)


def _claims(test_metric: str, train_metric: str) -> tuple[Claim, ...]:
    return (
        Claim("twice the width fits the training images better", "width", "<", "baseline", train_metric),
        Claim("dropout fits the training images less", "dropout", ">", "width", train_metric),
        Claim("BatchNorm fits the training images better than dropout", "batch-norm", "<", "dropout", train_metric),
        Claim(
            "skip connections help: res fits the training images better than depth", "res", "<", "depth", train_metric
        ),
        Claim("res and depth reach the same test error", "res", "within", "depth", test_metric, margin=1.5),
        Claim("a penalty on the weights fits the training images less", "l2-reg", ">", "baseline", train_metric),
    )


_DIFFERENCES = (
    "in the book, the last 16 images of an epoch form a smaller batch; here each epoch skips 16 other images",
    "the seeds are not the book's 123, so the order of images and the initial weights differ",
)

STEVENS2020: tuple[Study, ...] = (
    Study(
        name="book/chapter8",
        title="Deep Learning with PyTorch, chapter 8: eight networks, evaluated in eval mode",
        reference=_REFERENCE,
        source="book",
        rows=(*(_row(name, False) for name in _ROWS), _HIGH_LR_BASELINE, _HIGH_LR),
        presets=_PRESETS,
        claims=(
            *_claims("test_error", "train_error_eval"),
            Claim("twice the width overfits: a larger gap", "width", ">", "baseline", "gap"),
            Claim(
                "at a learning rate of 0.1, BatchNorm has a lower test error than the baseline",
                "batch-norm-lr-0.1",
                "<",
                "baseline-lr-0.1",
                "test_error",
                is_ours=True,
            ),
            Claim(
                "BatchNorm replaces dropout: both reach the same test error",
                "batch-norm",
                "within",
                "dropout",
                "test_error",
                margin=2.0,
            ),
        ),
        figures=(
            FigureSpec(
                "error_curves",
                "Error against iterations",
                (
                    FigurePanel("width and regularization", ("baseline", "width", "l2-reg", "dropout", "batch-norm")),
                    FigurePanel("depth", ("depth", "res", "res-deep")),
                ),
            ),
        ),
        differences=(*_DIFFERENCES, "the book never calls eval(): its values include dropout and batch statistics"),
    ),
    Study(
        name="book/chapter8-as-printed",
        title="Deep Learning with PyTorch, chapter 8: eight networks, evaluated as in the book",
        reference=_REFERENCE,
        source="book",
        rows=tuple(_row(name, True) for name in _ROWS),
        presets=_PRESETS,
        claims=_claims("test_error_batch", "train_error_batch"),
        differences=(
            *_DIFFERENCES,
            "never in eval mode, as in the book: dropout stays active, and norms use batch statistics",
        ),
    ),
)
