"""Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch: chapter 8, birds against airplanes."""

from dataclasses import replace

from reslab.spec.papers.presets import SMOKE_STEPS
from reslab.spec.study import Claim, Cut, Cuts, Drawing, Panel, Reported, Row, Study

_BOOK = "Stevens, Antiga and Viehmann 2020, Deep Learning with PyTorch, ch. 8; its notebook p1ch8/1_convolution.ipynb"
_SMOKE = Cut(
    "bundled 8x8 digits, 256 of them, 12 steps of 32",
    tuple(setting for setting in SMOKE_STEPS if not setting.startswith("augment")),
    data="digits",
    num_images=256,
    seeds=2,
)
_QUICK = ("precision=bf16", "channels_last=true")
_CUTS = Cuts(
    smoke=_SMOKE,
    short=Cut("only the arithmetic is cut, to bf16: 10,000 pictures, 100 epochs", _QUICK, seeds=3),
    full=Cut("nothing is cut: 10,000 pictures, 100 epochs"),
)
_DEEP_CUTS = Cuts(
    smoke=replace(
        _SMOKE,
        words=f"{_SMOKE.words}, 3 blocks of width 8",
        settings=(*_SMOKE.settings, *("model.depths=3", "model.widths=8", "model.stem=conv3(8) act maxpool2")),
    ),
    short=Cut("5 of 100 epochs, bf16", ("length=5 epochs", *_QUICK), seeds=3),
    full=_CUTS.full,
)
# The network, the recipe, and the accuracies on training and validation pictures that the notebook prints.
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


def _told(accuracy: float, metric: str) -> Reported:
    return Reported(
        round(100 * (1 - accuracy), 4), "single, after 100 epochs", "never in eval mode", _BOOK,
        note=f"accuracy {accuracy:.2f}", confidence="read", metric=metric,
    )  # fmt: skip


def _row(name: str, batch: bool) -> Row:
    model, recipe, train, val = _ROWS[name]
    cuts = _DEEP_CUTS if name == "res-deep" else _CUTS
    tested, trained = ("test_error_batch", "train_error_batch") if batch else ("test_error", "train_error_eval")
    return Row(
        name, model, "cifar2", recipe, seeds=3, metric=tested, reported=_told(val, tested),
        also=(_told(train, trained),), cuts=cuts,
    )  # fmt: skip


_FAST = replace(
    _row("batch-norm", False), name="batch-norm-lr-0.1", settings=("optimizer.lr=0.1",), reported=None, also=()
)
_FAST_BASELINE = replace(
    _row("baseline", False), name="baseline-lr-0.1", settings=("optimizer.lr=0.1",), reported=None, also=()
)


def _claims(tested: str, trained: str) -> tuple[Claim, ...]:
    return (
        Claim("twice the width fits the training pictures better", "width", "<", "baseline", trained),
        Claim("dropout fits the training pictures less", "dropout", ">", "width", trained),
        Claim("BatchNorm fits the training pictures better than dropout", "batch-norm", "<", "dropout", trained),
        Claim("skip connections help depth: res fits better than depth", "res", "<", "depth", trained),
        Claim("res tests no worse than depth", "res", "within", "depth", tested, margin=1.5),
        Claim("a penalty on the weights fits the training pictures less", "l2-reg", ">", "baseline", trained),
    )


_DIFFERENCES = (
    "the last 16 pictures of an epoch are a batch of their own in the book; here others each epoch are left out",
    "seeds are not the book's 123: the order of pictures and the first weights are drawn otherwise",
)

BOOK: tuple[Study, ...] = (
    Study(
        name="book/chapter8",
        title="Deep Learning with PyTorch, chapter 8: eight networks, judged in eval mode",
        source=_BOOK,
        rows=(*(_row(name, False) for name in _ROWS), _FAST_BASELINE, _FAST),
        cuts=_CUTS,
        claims=(
            *_claims("test_error", "train_error_eval"),
            Claim("twice the width overfits: a larger gap", "width", ">", "baseline", "gap"),
            Claim(
                "BatchNorm bears a rate of 0.1 better than the baseline does",
                "batch-norm-lr-0.1",
                "<",
                "baseline-lr-0.1",
                "test_error",
            ),
            Claim(
                "BatchNorm replaces dropout: it tests no worse", "batch-norm", "within", "dropout", "test_error", 2.0
            ),
        ),
        figures=(
            Drawing(
                "error_curves",
                "Error against iterations",
                (
                    Panel("width and regularisation", ("baseline", "width", "l2-reg", "dropout", "batch-norm")),
                    Panel("depth", ("depth", "res", "res-deep")),
                ),
            ),
        ),
        differences=(*_DIFFERENCES, "the book never calls eval(): its values are of dropout and batch statistics"),
    ),
    Study(
        name="book/chapter8-as-printed",
        title="Deep Learning with PyTorch, chapter 8: eight networks, judged as the book does",
        source=_BOOK,
        rows=tuple(_row(name, True) for name in _ROWS),
        cuts=_CUTS,
        claims=_claims("test_error_batch", "train_error_batch"),
        differences=(*_DIFFERENCES, "never in eval mode, as in the book: dropout draws, and norms see each batch"),
    ),
)
