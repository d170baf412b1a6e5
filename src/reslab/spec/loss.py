"""What a network is trained towards, as a sentence: `cross-entropy`, `bce(0.2)`, `focal(2) distill(0.5,4)`."""

from dataclasses import dataclass

from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops

LossArg = float | str


@dataclass(frozen=True)
class LossType:
    """A word: an example, its source, the bounds and defaults of its numbers, and its choices of a word."""

    example: str
    reference: str
    params: tuple[tuple[str, float, float, float | None], ...] = ()
    choices: tuple[str, ...] = ()


LOSSES: dict[str, LossType] = {
    "cross-entropy": LossType("cross-entropy", "the mean of -sum_c t_c log p_c"),
    "bce": LossType(
        "bce(0.2)",
        "a sigmoid for each class (Wightman et al. 2021, Sec. 3.1); targets above the threshold become 1, others 0",
        (("threshold", 0.0, 1.0, None),),
        ("mean", "sum"),
    ),
    "focal": LossType("focal(2)", "Lin et al. 2017, Eq. 4, over a softmax", (("gamma", 0.0, 100.0, 2.0),)),
    "focal-binary": LossType(
        "focal-binary(2,0.25)",
        "Lin et al. 2017, Eq. 5, a sigmoid for each class",
        (("gamma", 0.0, 100.0, 2.0), ("alpha", 0.0, 1.0, 0.25)),
    ),
}
DISTILL = LossType(
    "distill(0.5,4)",
    "Hinton et al. 2015, Sec. 2: share and temperature",
    (("alpha", 0.0, 1.0, None), ("temperature", 1e-3, 1e3, 1.0)),
)


@dataclass(frozen=True)
class LossSpec:
    """A sentence read: the loss's name, its numbers and word, and the share and temperature of a teacher."""

    name: str
    params: tuple[float | None, ...] = ()
    choice: str = ""
    distill: tuple[float, float] | None = None


def parse_loss(expression: str) -> LossSpec:
    """A sentence of one loss and perhaps `distill(alpha,temperature)`, in either order.

    Raises ValueError for an unknown word (with the nearest), and for arguments out of range.
    """
    ops = parse_ops(expression)
    loss_ops = [op for op in ops if op.name != "distill"]
    distill_ops = [op for op in ops if op.name == "distill"]
    if len(loss_ops) != 1 or len(distill_ops) > 1:
        raise invalid("one loss, and perhaps distill(alpha,temperature)", repr(expression), nearest="'cross-entropy'")
    op = loss_ops[0]
    if op.name not in LOSSES:
        raise unknown_name("loss", op.name, LOSSES)
    params, choice = _parse_args(op, LOSSES[op.name])
    if not distill_ops:
        return LossSpec(op.name, params, choice)
    distill_params, _ = _parse_args(distill_ops[0], DISTILL)
    if distill_params[0] is None:
        raise invalid("the teacher's share of the loss", str(distill_ops[0]), nearest=DISTILL.example)
    assert distill_params[1] is not None
    return LossSpec(op.name, params, choice, (distill_params[0], distill_params[1]))


def parse_class_weights(text: str) -> tuple[float, ...] | str:
    """`""`, `"balanced"`, or numbers separated by commas (`"1,2.5,1"`), one a class; ValueError for all else."""
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
    """The numbers in order, defaults where they are not said, and the word said (the first choice where none is)."""
    numbers = [arg for arg in op.args if not isinstance(arg, str)]
    choices = [arg for arg in op.args if isinstance(arg, str)]
    has_suffix = op.size is not None or op.stride is not None
    if has_suffix or len(numbers) > len(loss_type.params) or len(choices) > bool(loss_type.choices):
        raise invalid(f"a word such as {loss_type.example}", str(op))
    for choice in choices:
        if choice not in loss_type.choices:
            raise unknown_name(f"word of {op.name}", choice, loss_type.choices)
    params: list[float | None] = []
    for (name, low, high, default), number in zip(loss_type.params, (*numbers, *(None,) * 9), strict=False):
        if number is not None and not low <= number <= high:
            raise invalid(f"{name} of {op.name} from {low:g} to {high:g}", str(op), nearest=loss_type.example)
        params.append(default if number is None else float(number))
    return tuple(params), choices[0] if choices else (loss_type.choices or ("",))[0]
