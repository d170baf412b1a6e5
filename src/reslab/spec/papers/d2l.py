"""Zhang et al., Dive into Deep Learning: ResNet-18 on Fashion-MNIST."""

from reslab.spec.papers.presets import BF16, SMOKE_DIGITS, SMOKE_OVERRIDES
from reslab.spec.study import Claim, FigurePanel, FigureSpec, ReportedValue, RowSpec, ScalePreset, ScalePresets, Study

_REFERENCE = "Zhang et al., Dive into Deep Learning, Sec. 8.6 (ResNet), its printed output"
_RUNNING_AVERAGE = "running average over the last epoch"

D2L: tuple[Study, ...] = (
    Study(
        name="d2l/fashion",
        title="Dive into Deep Learning's ResNet-18 on Fashion-MNIST",
        reference=_REFERENCE,
        rows=(
            RowSpec(
                "resnet-18",
                "resnet18_d2l",
                "fashion-mnist",
                "d2l-fashion",
                seeds=3,
                reported=ReportedValue(
                    10.5, "single, after 10 epochs", location=_REFERENCE, note="test acc 0.895", provenance="verified"
                ),
                more_reported=(
                    ReportedValue(
                        0.014, _RUNNING_AVERAGE, "training mode", _REFERENCE, provenance="verified", metric="train_loss"
                    ),
                    ReportedValue(
                        0.4,
                        _RUNNING_AVERAGE,
                        "training mode",
                        _REFERENCE,
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
