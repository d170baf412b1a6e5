"""Scale presets that several studies share, and constructors for the most common claims.

A preset shrinks a paper's procedure to fit a machine: `smoke` runs in seconds on bundled digits, `short` trains small
versions for about a thousand steps.
"""

from reslab.spec.study import FULL_PRESET, Claim, ScalePreset, ScalePresets

SMOKE_STEPS = (
    "duration=12 steps",
    "schedule.name=multistep",
    "schedule.milestones=6 steps,9 steps",
    "schedule.warmup=0 steps",
    "batch_size=32",
    "eval_transform=",
    "val_fraction=0",
)
SMOKE_OVERRIDES = (*SMOKE_STEPS, "train_transform=pad(1) crop(8)")
SMOKE_DIGITS = "256 of the bundled 8x8 digits"
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
BF16 = ("precision=bf16", "channels_last=true")


def one_cycle(num_steps: int = 1000) -> tuple[str, ...]:
    """Return the overrides for one cycle of this many steps.

    One cycle in place of three plateaus: in so few steps, 56 residual layers do not start to learn at a rate of 0.1
    from the first step on (43 % of the training images right after 950 steps, against 57 % after 850).
    """
    return (
        f"duration={num_steps} steps",
        "schedule.name=one-cycle",
        "schedule.milestones=",
        "schedule.warmup=0 steps",
    )


def cifar_presets(
    smoke_depth: int,
    short_depth: int = 0,
    *,
    duration: str = "64,000",
    short_steps: int = 1000,
    quarter_widths: str = "",
    target_train_error: float = 20.0,
) -> ScalePresets:
    """Return the presets for networks of three stages on CIFAR.

    Smoke: `smoke_depth` blocks per stage on the digits. Short: `short_depth` blocks per stage (0: the row's own), the
    widths `quarter_widths` (empty: the row's own), feature maps of half the side, and `short_steps` steps of one cycle
    in place of `duration`.
    """
    changes = [
        "a quarter of the widths" if quarter_widths else "",
        f"{short_depth} blocks per stage" if short_depth else "",
        "a stem with stride 2 (feature maps of 16, 8 and 4 pixels)",
        f"{short_steps:,} steps of one cycle in place of {duration}",
        "bf16",
    ]
    short_overrides = (
        *((f"model.depths={short_depth},{short_depth},{short_depth}",) if short_depth else ()),
        "model.stem=conv3/2(16) norm act",
        *one_cycle(short_steps),
        *BF16,
        *((f"model.widths={quarter_widths}",) if quarter_widths else ()),
    )
    smoke_blocks = f"{smoke_depth} block{'s' * (smoke_depth > 1)} per stage with widths 4, 8 and 16"
    return ScalePresets(
        smoke=ScalePreset(
            f"{SMOKE_DIGITS}, {smoke_blocks}, 12 steps of 32",
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
            ", ".join(change for change in changes if change), short_overrides, seeds=3, target_train_error=60.0
        ),
        full=ScalePreset(FULL_PRESET.description, target_train_error=target_train_error),
    )


# The batches and steps of ImageNet studies at short scale.
IMAGENET_SHORT_STEPS = ("batch_size=128", "optimizer.lr=0.1", *one_cycle())


def imagenet_presets(
    depths: str = "own",
    *,
    short_steps: tuple[str, ...] = IMAGENET_SHORT_STEPS,
    short_steps_text: str = "1,000 steps of 128 in one cycle",
) -> ScalePresets:
    """Return the presets for networks of four stages on ImageNet, whose stages have `depths` blocks.

    Smoke: shrunk networks on the digits. Short: CIFAR-10 in place of ImageNet, a quarter of the widths, the full depth,
    and the overrides `short_steps`, which `short_steps_text` describes.
    """
    return ScalePresets(
        smoke=ScalePreset(
            f"{SMOKE_DIGITS}, one block per stage with widths 4, 8, 16 and 32, 12 steps of 32",
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
            f"CIFAR-10 in place of ImageNet, the stages' {depths} blocks at a quarter of their widths, a stem of one "
            f"3x3 convolution with stride 2, {short_steps_text}, one view, bf16",
            (
                "model.widths=16,32,64,128",
                "model.stem=conv3/2(16) norm act",
                "train_transform=pad(4) crop(32) flip",
                "eval_transform=",
                "val_fraction=0",
                *short_steps,
                *BF16,
            ),
            data="cifar10",
            seeds=3,
            target_train_error=60.0,
            tta="single",
        ),
        full=ScalePreset(FULL_PRESET.description, target_train_error=50.0),
    )


def lower_test_error(left: str, right: str) -> Claim:
    """Return the claim that `left` has a lower test error than `right`."""
    return Claim(f"{left} has a lower test error than {right}", left, "<", right, "test_error")


def higher_test_error(left: str, right: str) -> Claim:
    """Return the claim that `left` has a higher test error than `right`."""
    return Claim(f"{left} has a higher test error than {right}", left, ">", right, "test_error")


def lower_train_error(left: str, right: str) -> Claim:
    """Return the claim that `left` has a lower training error than `right`."""
    return Claim(f"{left} has a lower training error than {right}", left, "<", right, "train_error")


def higher_train_error(left: str, right: str) -> Claim:
    """Return the claim that `left` has a higher training error than `right`."""
    return Claim(f"{left} has a higher training error than {right}", left, ">", right, "train_error")
