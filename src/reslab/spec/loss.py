"""Loss expressions: `cross-entropy`, `bce(0.2)`, `focal(2)`, `focal-binary(2,0.25)`."""

from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.plugins import Table
from reslab.spec.task import TargetKind


@dataclass(frozen=True)
class LossType:
    """A loss: an example, its reference, its numbers (name, minimum, maximum, default) and its choices by name.

    `targets` are the forms of targets that it takes.
    """

    example: str
    reference: str
    params: tuple[tuple[str, float, float, float | None], ...] = ()
    choices: tuple[str, ...] = ()
    targets: tuple[TargetKind, ...] = (TargetKind.CLASS,)


_LOSSES: dict[str, LossType] = {
    "cross-entropy": LossType(
        "cross-entropy", "the mean of -sum_c t_c log p_c", targets=(TargetKind.CLASS, TargetKind.MASK)
    ),
    "bce": LossType(
        "bce(0.2)",
        "a sigmoid for each class (Wightman et al. 2021, Sec. 3.1); targets above the threshold become 1, others 0",
        (("threshold", 0.0, 1.0, None),),
        ("mean", "sum"),
        (TargetKind.CLASS, TargetKind.MULTI_HOT),
    ),
    "focal": LossType("focal(2)", "Lin et al. 2017, Eq. 4, over a softmax", (("gamma", 0.0, 100.0, 2.0),)),
    "focal-binary": LossType(
        "focal-binary(2,0.25)",
        "Lin et al. 2017, Eq. 5, a sigmoid for each class",
        (("gamma", 0.0, 100.0, 2.0), ("alpha", 0.0, 1.0, 0.25)),
        targets=(TargetKind.CLASS, TargetKind.MULTI_HOT),
    ),
    "mse": LossType("mse", "the mean of (z - t)^2", targets=(TargetKind.VALUES,)),
    "mae": LossType("mae", "the mean of |z - t|", targets=(TargetKind.VALUES,)),
    "huber": LossType(
        "huber(1)",
        "the mean of (z - t)^2 / 2 up to delta, delta (|z - t| - delta / 2) beyond (Huber 1964, Ann. Math. Stat. 35)",
        (("delta", 1e-6, 1e6, 1.0),),
        targets=(TargetKind.VALUES,),
    ),
    "detector": LossType(
        "detector",
        "the sum of the losses that a detector computes (Ren et al. 2015, Eq. 1; Lin et al. 2017, RetinaNet)",
        targets=(TargetKind.BOXES,),
    ),
}
LOSSES: Table[LossType] = Table("loss", _LOSSES, is_word_of_grammar=True)


@dataclass(frozen=True)
class LossSpec:
    """A parsed loss expression: the name of the loss, its numbers and its word."""

    name: str
    params: tuple[float | None, ...] = ()
    choice: str = ""


def parse_loss(expression: str) -> LossSpec:
    """Parse a loss expression. Raises ValueError for an unknown loss (with the nearest) and arguments out of range."""
    ops = parse_ops(expression)
    if len(ops) != 1:
        raise invalid("one loss", repr(expression), nearest="'cross-entropy'")
    op = ops[0]
    if op.name not in LOSSES:
        raise unknown_name("loss", op.name, LOSSES)
    params, choice = _parse_args(op, LOSSES[op.name])
    return LossSpec(op.name, params, choice)


def parse_class_weights(text: str) -> tuple[float, ...] | str:
    """Parse `""`, `"balanced"`, or numbers separated by commas (`"1,2.5,1"`), one a class.

    Raises ValueError for anything else.
    """
    if text in ("", "balanced"):
        return text
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise invalid("class_weights as 'balanced' or numbers separated by commas", repr(text), "'balanced'") from None
    if not (min(weights) >= 0 and 0 < max(weights) < float("inf")):
        raise invalid("class_weights of at least 0, one above it", repr(text), "'balanced'")
    return weights


def _parse_args(op: Op, loss_type: LossType) -> tuple[tuple[float | None, ...], str]:
    """Return the numbers in order, with defaults for those not given, and the word (by default the first choice)."""
    numbers = [arg for arg in op.args if not isinstance(arg, str)]
    choices = [arg for arg in op.args if isinstance(arg, str)]
    has_suffix = op.size is not None or op.stride is not None
    if has_suffix or len(numbers) > len(loss_type.params) or len(choices) > bool(loss_type.choices):
        raise invalid(f"a loss such as {loss_type.example}", str(op))
    for choice in choices:
        if choice not in loss_type.choices:
            raise unknown_name(f"word of {op.name}", choice, loss_type.choices)
    params: list[float | None] = []
    for (name, low, high, default), number in zip(loss_type.params, (*numbers, *(None,) * 9), strict=False):
        if number is not None and not low <= number <= high:
            raise invalid(f"{name} of {op.name} from {low:g} to {high:g}", str(op), nearest=loss_type.example)
        params.append(default if number is None else float(number))
    return tuple(params), choices[0] if choices else (loss_type.choices or ("",))[0]
