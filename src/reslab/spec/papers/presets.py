"""What the scales cut from the papers' procedures: the smoke and short cuts that several studies share.

The claims that papers make most: one row tests or trains better, or worse, than another.
"""

from reslab.spec.study import Claim, ScalePreset, ScalePresets

SMOKE_OVERRIDES = (
    "duration=12 steps",
    "schedule.name=multistep",
    "schedule.milestones=6 steps,9 steps",
    "schedule.warmup=0 steps",
    "batch_size=32",
    "train_transform=pad(1) crop(8)",
    "eval_transform=",
    "val_fraction=0",
)
SMOKE_ANALYSIS_OVERRIDES = (
    "lesion.num_images=32",
    "lesion.draws=1",
    "lesion.path_draws=1",
    "landscape.num_images=32",
    "landscape.points_per_axis=3",
    "landscape.curvature_points=1",
    "landscape.lanczos_iterations=2",
    "landscape.num_hessian_images=8",
    "landscape.num_eigenvalues=1",
    "responses.num_images=32",
    "gradients.num_images=32",
)
# One cycle in place of three plateaus: in so few steps 56 residual layers do not get going at a rate of 0.1 from the
# first step on (43 % of the training pictures right after 950 steps, against 57 % after 850).
SHORT_OVERRIDES = (
    "duration=1000 steps",
    "schedule.name=one-cycle",
    "schedule.milestones=",
    "schedule.warmup=0 steps",
    "precision=bf16",
    "channels_last=true",
)


def cifar_presets(
    smoke_depth: int, short_depth: int = 0, *, duration: str = "64,000", target_train_error: float = 20.0
) -> ScalePresets:
    """For networks of three stages on CIFAR: `smoke_units` a stage on the digits; at short scale `short_units` (the
    row's own where 0) on feature maps of half the side, 1,000 steps of one cycle in place of `length`."""
    depth_text = f"{short_depth} units a stage" if short_depth else ""
    depth_overrides = (f"model.depths={short_depth},{short_depth},{short_depth}",) if short_depth else ()
    changes = [
        depth_text,
        "a stem of stride 2 (feature maps of 16, 8 and 4 pixels)",
        f"1,000 steps of one cycle in place of {duration}",
        "bf16",
    ]
    return ScalePresets(
        smoke=ScalePreset(
            f"bundled 8x8 digits, 256 of them, {smoke_depth} unit{'s' * (smoke_depth > 1)} a stage of widths 4, 8 "
            "and 16, 12 steps of 32",
            (
                f"model.depths={smoke_depth},{smoke_depth},{smoke_depth}",
                "model.widths=4,8,16",
                "model.stem=conv3(4) norm act",
                *SMOKE_OVERRIDES,
            ),
            data="digits",
            num_images=256,
            seeds=2,
            analysis_overrides=SMOKE_ANALYSIS_OVERRIDES,
            target_train_error=85.0,
        ),
        short=ScalePreset(
            ", ".join(change for change in changes if change),
            (*depth_overrides, "model.stem=conv3/2(16) norm act", *SHORT_OVERRIDES),
            seeds=3,
            target_train_error=60.0,
        ),
        full=ScalePreset("nothing is cut: the paper's procedure", target_train_error=target_train_error),
    )


def imagenet_presets(depths: str, short_overrides: tuple[str, ...] = ()) -> ScalePresets:
    """For networks of four stages on ImageNet: shrunk on the digits; at short scale CIFAR-10 in place of ImageNet, a
    quarter of the widths, the depth its own."""
    return ScalePresets(
        smoke=ScalePreset(
            "bundled 8x8 digits, 256 of them, one unit a stage of widths 4, 8, 16 and 32, 12 steps of 32",
            (
                "model.depths=1,1,1,1",
                "model.widths=4,8,16,32",
                "model.stem=conv3(4) norm act",
                *SMOKE_OVERRIDES,
            ),
            data="digits",
            num_images=256,
            seeds=2,
            target_train_error=85.0,
            tta="single",
        ),
        short=ScalePreset(
            f"CIFAR-10 in place of ImageNet, the stages' {depths} units at a quarter of their widths, "
            "a stem of one 3x3 convolution of stride 2, 1,000 steps of 128 in one cycle, one view, bf16",
            (
                "model.widths=16,32,64,128",
                "model.stem=conv3/2(16) norm act",
                "batch_size=128",
                "optimizer.lr=0.1",
                "train_transform=pad(4) crop(32) flip",
                "eval_transform=",
                "val_fraction=0",
                *SHORT_OVERRIDES,
                *short_overrides,
            ),
            data="cifar10",
            seeds=3,
            target_train_error=60.0,
            tta="single",
        ),
        full=ScalePreset("nothing is cut: the paper's procedure", target_train_error=50.0),
    )


def lower_test_error(left: str, right: str) -> Claim:
    """`left` has the smaller test error."""
    return Claim(f"{left} tests better than {right}", left, "<", right, "test_error")


def higher_test_error(left: str, right: str) -> Claim:
    """`left` has the larger test error."""
    return Claim(f"{left} tests worse than {right}", left, ">", right, "test_error")


def lower_train_error(left: str, right: str) -> Claim:
    """`left` has the smaller training error."""
    return Claim(f"{left} trains better than {right}", left, "<", right, "train_error")


def higher_train_error(left: str, right: str) -> Claim:
    """`left` has the larger training error."""
    return Claim(f"{left} trains worse than {right}", left, ">", right, "train_error")
