"""What the scales cut from the papers' procedures: the smoke and short cuts that several studies share.

The claims that papers make most: one row tests or trains better, or worse, than another.
"""

from reslab.spec.study import Claim, Cut, Cuts

SMOKE_STEPS = (
    "length=12 steps",
    "schedule.name=steps",
    "schedule.milestones=6 steps,9 steps",
    "schedule.warmup=0 steps",
    "batch=32",
    "augment=pad(1) crop(8)",
    "test=",
    "val_fraction=0",
)
SMOKE_ASKING = (
    "lesion.num_images=32",
    "lesion.draws=1",
    "lesion.path_draws=1",
    "landscape.num_images=32",
    "landscape.points=3",
    "landscape.curvature=1",
    "landscape.iterations=2",
    "landscape.hessian_images=8",
    "landscape.eigenvalues=1",
    "responses.num_images=32",
    "gradients.num_images=32",
)
# One cycle in place of three plateaus: in so few steps 56 residual layers do not get going at a rate of 0.1 from the
# first step on (43 % of the training pictures right after 950 steps, against 57 % after 850).
SHORT_STEPS = (
    "length=1000 steps",
    "schedule.name=one-cycle",
    "schedule.milestones=",
    "schedule.warmup=0 steps",
    "precision=bf16",
    "channels_last=true",
)


def three_stages(smoke_units: int, short_units: int = 0, *, length: str = "64,000", train_error: float = 20.0) -> Cuts:
    """For networks of three stages on CIFAR: `smoke_units` a stage on the digits; at short scale `short_units` (the
    row's own where 0) on feature maps of half the side, 1,000 steps of one cycle in place of `length`."""
    own = f"{short_units} units a stage" if short_units else ""
    depths = (f"model.depths={short_units},{short_units},{short_units}",) if short_units else ()
    words = [
        own,
        "a stem of stride 2 (feature maps of 16, 8 and 4 pixels)",
        f"1,000 steps of one cycle in place of {length}",
        "bf16",
    ]
    return Cuts(
        smoke=Cut(
            f"bundled 8x8 digits, 256 of them, {smoke_units} unit{'s' * (smoke_units > 1)} a stage of widths 4, 8 "
            "and 16, 12 steps of 32",
            (
                f"model.depths={smoke_units},{smoke_units},{smoke_units}",
                "model.widths=4,8,16",
                "model.stem=conv3(4) norm act",
                *SMOKE_STEPS,
            ),
            data="digits",
            num_images=256,
            seeds=2,
            asking=SMOKE_ASKING,
            train_error=85.0,
        ),
        short=Cut(
            ", ".join(word for word in words if word),
            (*depths, "model.stem=conv3/2(16) norm act", *SHORT_STEPS),
            seeds=3,
            train_error=60.0,
        ),
        full=Cut("nothing is cut: the paper's procedure", train_error=train_error),
    )


def four_stages(depths: str, short_model: tuple[str, ...] = ()) -> Cuts:
    """For networks of four stages on ImageNet: shrunk on the digits; at short scale CIFAR-10 in place of ImageNet, a
    quarter of the widths, the depth its own."""
    return Cuts(
        smoke=Cut(
            "bundled 8x8 digits, 256 of them, one unit a stage of widths 4, 8, 16 and 32, 12 steps of 32",
            (
                "model.depths=1,1,1,1",
                "model.widths=4,8,16,32",
                "model.stem=conv3(4) norm act",
                *SMOKE_STEPS,
            ),
            data="digits",
            num_images=256,
            seeds=2,
            train_error=85.0,
            views="single",
        ),
        short=Cut(
            f"CIFAR-10 in place of ImageNet, the stages' {depths} units at a quarter of their widths, "
            "a stem of one 3x3 convolution of stride 2, 1,000 steps of 128 in one cycle, one view, bf16",
            (
                "model.widths=16,32,64,128",
                "model.stem=conv3/2(16) norm act",
                "batch=128",
                "optimizer.lr=0.1",
                "augment=pad(4) crop(32) flip",
                "test=",
                "val_fraction=0",
                *SHORT_STEPS,
                *short_model,
            ),
            data="cifar10",
            seeds=3,
            train_error=60.0,
            views="single",
        ),
        full=Cut("nothing is cut: the paper's procedure", train_error=50.0),
    )


def tests_better(left: str, right: str) -> Claim:
    """`left` has the smaller test error."""
    return Claim(f"{left} tests better than {right}", left, "<", right, "test_error")


def tests_worse(left: str, right: str) -> Claim:
    """`left` has the larger test error."""
    return Claim(f"{left} tests worse than {right}", left, ">", right, "test_error")


def trains_better(left: str, right: str) -> Claim:
    """`left` has the smaller training error."""
    return Claim(f"{left} trains better than {right}", left, "<", right, "train_error")


def trains_worse(left: str, right: str) -> Claim:
    """`left` has the larger training error."""
    return Claim(f"{left} trains worse than {right}", left, ">", right, "train_error")
