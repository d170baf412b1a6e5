"""From an architecture to its units: every channel, stride and dilation counted out, and what means nothing refused.

How height and width shrink on the way through a network.

How far a network sees: the receptive field of one place of its last map.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reslab.spec.arch import Arch
from reslab.spec.errors import refuse
from reslab.spec.grammar import Word, parse_words
from reslab.spec.order import Sentence, parse_order
from reslab.spec.shortcut import get_match, parse_mix
from reslab.spec.stem_head import check_head, check_stem, conv_width


@dataclass(frozen=True)
class ConvPlan:
    """One convolution of a branch."""

    kernel: int
    in_channels: int
    out_channels: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class UnitPlan:
    """One unit: its name (`layer1.0`), place, convolutions, what its shortcut is and where its leading words stand.

    `match` is the kind of the shortcut's module: `identity`, `none` in a plain twin, or one of `reslab.spec.shortcut`.
    `ahead`: the leading words stand ahead of the fork. `bare`: the unit goes without them.
    """

    name: str
    index: int
    num_units: int
    convs: tuple[ConvPlan, ...]
    sentence: Sentence
    match: str
    stride: int
    dilation: int
    ahead: bool
    bare: bool

    @property
    def in_channels(self) -> int:
        """Channels the unit takes."""
        return self.convs[0].in_channels

    @property
    def out_channels(self) -> int:
        """Channels the unit gives."""
        return self.convs[-1].out_channels


def plan_stages(arch: Arch) -> tuple[tuple[UnitPlan, ...], ...]:
    """The units of each stage. Raises ValueError, with the reason, for a description that means nothing."""
    _check(arch)
    widths = _unit_widths(arch)
    sentence = parse_order(arch.facts.sentence, len(arch.branch))
    channels, dilation, index = stem_channels(arch), 1, 0
    stages = []
    for stage, depth in enumerate(arch.depths):
        stride, before = arch.strides[stage], dilation
        if stage and arch.replace_stride_with_dilation and arch.replace_stride_with_dilation[stage - 1]:
            dilation, stride = dilation * stride, 1
        units = []
        for i in range(depth):
            unit_dilation = before if i == 0 else dilation
            convs = _convs(arch, channels, widths[index], stride if i == 0 else 1, unit_dilation)
            units.append(_unit(arch, f"layer{stage + 1}.{i}", index, convs, sentence, unit_dilation))
            channels, index = convs[-1].out_channels, index + 1
        stages.append(tuple(units))
        _check_shared(arch, stages[-1])
    return tuple(stages)


def _unit(
    arch: Arch, name: str, index: int, convs: tuple[ConvPlan, ...], sentence: Sentence, dilation: int
) -> UnitPlan:
    stride = math.prod(conv.stride for conv in convs)
    changes = stride != 1 or convs[0].in_channels != convs[-1].out_channels
    match = get_match(arch.match)
    kind = match.kind if changes or match.every else "identity"
    facts = arch.facts
    where = {"changes": changes, "projects": kind != "identity" and match.projects, "first": index == 0}
    if parse_mix(arch.mix).join.name == "none":
        kind = "none"
    if kind in ("pad", "pad-split", "avg-pad") and convs[-1].out_channels < convs[0].in_channels:
        got = f"{convs[0].in_channels} to {convs[-1].out_channels} in {name}"
        raise refuse(
            f"match {arch.match} where the width grows (zeros can be added, not taken away)", got, "match=project"
        )
    return UnitPlan(
        name,
        index,
        arch.num_units,
        convs,
        sentence,
        kind,
        stride,
        dilation,
        ahead=bool(sentence.leading) and any(where[word] for word in facts.ahead),
        bare=facts.first_bare and index == 0,
    )


def _convs(arch: Arch, channels: int, width: int, stride: int, dilation: int) -> tuple[ConvPlan, ...]:
    inner = int(width * (arch.width_per_group / 64.0)) * arch.groups
    if inner < 1:
        got = f"width_per_group={arch.width_per_group} with width {width}"
        raise refuse("width_per_group of at least 64 / width", got, f"width_per_group={-(-64 // width)}")
    stride_at = arch.stride_at or next((i for i, kernel in enumerate(arch.branch, 1) if kernel > 1), 1)
    convs = []
    for number, kernel in enumerate(arch.branch, 1):
        out = width * arch.expansion if number == len(arch.branch) else inner
        groups = arch.groups if kernel > 1 else 1
        if channels % groups or out % groups:
            got = f"{channels} -> {out} channels"
            raise refuse(
                f"widths divisible by groups={groups} in every {kernel}x{kernel} convolution",
                got,
                f"groups={math.gcd(channels, out)}",
            )
        convs.append(
            ConvPlan(kernel, channels, out, stride if number == stride_at else 1, groups, dilation if kernel > 1 else 1)
        )
        channels = out
    return tuple(convs)


def _unit_widths(arch: Arch) -> list[int]:
    if not isinstance(arch.widths, str):
        return [width for width, depth in zip(arch.widths, arch.depths, strict=True) for _ in range(depth)]
    start, growth = parse_width_law(arch.widths)
    widths = [round(start + growth * (k + 1) / arch.num_units) for k in range(arch.num_units)]
    if min(widths, default=1) < 1:
        raise refuse("a width law that stays at 1 or above", f"{arch.widths} down to {min(widths)}", "additive(16,48)")
    return widths


def parse_width_law(law: str) -> tuple[float, float]:
    """Start and growth of `additive(start,growth)`; ValueError for any other law."""
    words = parse_words(law)
    if len(words) == 1 and words[0].name == "additive" and len(words[0].args) == 2:
        start, growth = words[0].args
        if isinstance(start, int | float) and isinstance(growth, int | float):
            return float(start), float(growth)
    raise refuse("widths as one number a stage, or the law additive(START,GROWTH)", repr(law), "additive(16,48)")


def stem_channels(arch: Arch) -> int:
    """Channels that the stem hands to the first unit."""
    channels = arch.in_channels
    for word in arch.stem_words:
        if word.name == "conv":
            channels = conv_width(word)
    return channels


def _sizes(arch: Arch) -> Iterator[tuple[str, int]]:
    yield from (("num_classes", arch.num_classes), ("in_channels", arch.in_channels), ("groups", arch.groups))
    yield from (("expansion", arch.expansion), ("width_per_group", arch.width_per_group))
    for name in ("depths", "strides", "branch", "image_size"):
        yield from ((name, number) for number in getattr(arch, name))
    if not isinstance(arch.widths, str):
        yield from (("widths", number) for number in arch.widths)


def _check(arch: Arch) -> None:
    for name, number in _sizes(arch):
        if number < 1:
            raise refuse(f"{name} of whole numbers from 1", number, "1")
    stages = len(arch.depths)
    for name in ("widths", "strides"):
        values = getattr(arch, name)
        if not isinstance(values, str) and len(values) != stages:
            raise refuse(
                f"{name} with one number for each of the {stages} stages in depths={arch.depths}",
                f"{name}={values}",
                next_step=f"set {name} too",
            )
    if not arch.branch and stages:
        raise refuse("a branch of at least one convolution", arch.branch, "(3, 3)")
    even = [kernel for kernel in arch.branch if kernel % 2 == 0]
    if even:
        raise refuse("odd kernels, so that shapes stay", even[0], str(even[0] + 1))
    if not 0 <= arch.stride_at <= len(arch.branch):
        raise refuse(
            f"stride_at between 0 and {len(arch.branch)}, the number of convolutions",
            arch.stride_at,
            str(len(arch.branch)),
        )
    _check_numbers(arch)
    _check_dilation(arch, stages)
    check_stem(arch.stem)
    check_head(arch.head)
    if arch.norm == "none" and arch.last_norm_weight != 1.0:
        raise refuse(
            "last_norm_weight=1 with norm=none (there is no norm to weigh)", arch.last_norm_weight, "mix=skipinit"
        )


def _check_numbers(arch: Arch) -> None:
    if not 0 <= arch.drop < 1:
        raise refuse("drop in [0, 1)", arch.drop, "0.3")
    if not 0 < arch.norm_eps < math.inf:
        raise refuse("norm_eps above 0", arch.norm_eps, "1e-5")
    if not 0 <= arch.norm_momentum <= 1:
        raise refuse("norm_momentum in [0, 1]", arch.norm_momentum, "0.1")
    if not 0 < arch.se_ratio <= 1:
        raise refuse("se_ratio in (0, 1]", arch.se_ratio, "0.0625")
    if not math.isfinite(arch.last_norm_weight):
        raise refuse("last_norm_weight as a finite number", arch.last_norm_weight, "0")
    if len(arch.image_size) != 2:
        raise refuse("image_size as height,width", arch.image_size, "224,224")


def dilation_required(num_stages: int) -> str:
    """What `replace_stride_with_dilation` has to be for so many stages, in words."""
    names = ", ".join(f"layer{stage}" for stage in range(2, num_stages + 1))
    return f"replace_stride_with_dilation with {num_stages - 1} truth values, one each for {names}"


def _check_dilation(arch: Arch, stages: int) -> None:
    given = arch.replace_stride_with_dilation
    if given and len(given) != stages - 1:
        nearest = str(tuple((list(given) + [False] * stages)[: stages - 1]))
        raise refuse(dilation_required(stages), given, nearest)


def _check_shared(arch: Arch, units: tuple[UnitPlan, ...]) -> None:
    """Units that share their weights are one unit run several times, so nothing may tell them apart."""
    if not arch.shared:
        return
    first = units[0]
    if any(unit.convs != first.convs or unit.match != first.match for unit in units):
        raise refuse(
            "shared units of one shape (stride 1, as wide as what comes in)",
            f"{first.name} changes the shape",
            "shared=false",
        )
    if any((unit.ahead, unit.bare) != (first.ahead, first.bare) for unit in units):
        raise refuse(
            "shared units with the same words ahead of the fork",
            f"order={arch.order}, whose first unit differs from the others",
            "order=original",
        )
    words = [word.name for word in parse_mix(arch.mix).on_branch if word.name in ("survive", "drop-path")]
    if words and len(units) > 1:
        raise refuse("shared units of one rate", f"mix={arch.mix}, whose rate rises from unit to unit", "mix=add")


def pool_stride(word: Word) -> int:
    """The stride of a pool word; a pool without one strides by its size, as torch.nn has it."""
    return word.stride or word.size or 1


def word_stride(word: Word) -> int:
    """By what a word of a stem or head divides height and width."""
    return pool_stride(word) if is_pool(word) else word.stride or 1


def is_pool(word: Word) -> bool:
    """Whether the word pools."""
    return word.name in ("maxpool", "avgpool")


def pools_all(words: Iterable[Word]) -> bool:
    """Whether one of the words pools each map to one number (`avgpool` without a size)."""
    return any(is_pool(word) and word.size is None for word in words)


def total_stride(arch: Arch) -> int:
    """By how much height and width shrink from the input to the last unit."""
    stem = math.prod(word_stride(word) for word in arch.stem_words)
    return stem * math.prod(unit.stride for stage in plan_stages(arch) for unit in stage)


def num_places(arch: Arch, head: Iterable[Word]) -> int:
    """Height times width of the maps that leave the words `head` for an input of the architecture's image size.

    Raises ValueError where nothing is left of them.
    """
    head = tuple(head)
    if pools_all(head):
        return 1
    shrinks = [(word_stride(word), _rounds_up(word)) for word in arch.stem_words]
    shrinks += [(unit.stride, True) for stage in plan_stages(arch) for unit in stage]
    shrinks += [(word_stride(word), _rounds_up(word)) for word in head]
    sides = list(arch.image_size)
    for stride, up in shrinks:
        sides = [-(-side // stride) if up else side // stride for side in sides]
    if min(sides) < 1:
        raise refuse(
            f"images that leave {arch.name} a map", "x".join(map(str, arch.image_size)), "32x32", "set image_size"
        )
    return sides[0] * sides[1]


def _rounds_up(word: Word) -> bool:
    """Odd windows are padded and round up, `maxpool2` has nothing to pad with and rounds down."""
    return not is_pool(word) or (word.size or 1) % 2 == 1


def receptive_field(arch: Arch) -> int:
    """Input pixels, along one side, that one place of the last unit's output depends on, through the branches.

    r = 1 + sum over convolutions and pools of (kernel - 1) * dilation * (product of the strides before it);
    Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", equation (2).
    """
    field, jump = 1, 1
    for kernel, stride, dilation in _windows(arch):
        field += (kernel - 1) * dilation * jump
        jump *= stride
    return field


def _windows(arch: Arch) -> Iterator[tuple[int, int, int]]:
    """Kernel, stride and dilation of every window from the input to the last unit, in order."""
    for word in arch.stem_words:
        if word.name == "conv" or (is_pool(word) and word.size):
            yield word.size or 3, word_stride(word), 1
    for stage in plan_stages(arch):
        for unit in stage:
            yield from ((conv.kernel, conv.stride, conv.dilation) for conv in unit.convs)
