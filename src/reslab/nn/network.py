"""A network: stem, stages of units, the words after the last unit, head."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor, nn
from torch.fx import Proxy

from reslab.nn.block import Unit
from reslab.nn.checkpoints.load_report import LoadReport
from reslab.nn.init import init_weights
from reslab.nn.layers import NormLayer, make_conv, make_plain_word, norm_maker
from reslab.spec.arch import Arch
from reslab.spec.errors import refuse, unknown
from reslab.spec.grammar import Word, parse_words
from reslab.spec.layout import ConvPlan, num_places, plan_stages, pools_all, stem_channels, total_stride
from reslab.spec.preprocess import Preprocess
from reslab.spec.stem_head import conv_width

LEVELS = ("stages", "units")
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# What torchvision calls the words after the stem's convolution.
_STEM_NAMES = {"norm": "bn1", "act": "act1", "bias": "bias1"}


class SharedStage(nn.Sequential):
    """One unit run through `num_repeats` times: units that share a set of weights, stored once."""

    def __init__(self, unit: Unit, num_repeats: int) -> None:
        super().__init__(unit)
        self.num_repeats = num_repeats

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.num_repeats):
            x = self[0](x)
        return x


class Network(nn.Module):
    """logits = head(last(stages(stem(x)))), built from an `Arch`; N C H W to N num_classes.

    Parameter names are torchvision's wherever torchvision has the network. `classes` and `preprocess` are known once it
    was trained or loaded, `temperature` once one was fitted (`predict` divides the logits by it); `loaded` tells what
    came of loading a checkpoint. `norm_layer` overrides the architecture's norm by a callable taking the number of
    channels.
    Raises ValueError for a description that means nothing, and for inputs smaller than the total stride.
    """

    def __init__(self, arch: Arch, norm_layer: NormLayer | None = None) -> None:
        super().__init__()
        plans = plan_stages(arch)
        norm = norm_layer or norm_maker(arch)
        self.arch = replace(arch, norm="custom") if norm_layer else arch
        self.classes: tuple[str, ...] | None = None
        self.preprocess: Preprocess | None = None
        self.temperature: float | None = None
        self.loaded: LoadReport | None = None
        self.stem_names = self._add_stem(arch, norm)
        self.stage_names = tuple(f"layer{number}" for number in range(1, len(plans) + 1))
        for name, units in zip(self.stage_names, plans, strict=True):
            built = [Unit(plan, arch, norm) for plan in (units[:1] if arch.shared else units)]
            self.add_module(name, SharedStage(built[0], len(units)) if arch.shared else nn.Sequential(*built))
        channels = plans[-1][-1].out_channels if plans else stem_channels(arch)
        self.last_names = self._add_words(parse_words(arch.facts.last) if plans else (), channels, arch, norm)
        self.total_stride = total_stride(arch)
        self.head_names = self._add_head(arch, channels)
        stem = [getattr(self, name) for name in self.stem_names]
        init_weights(arch, stem, [unit for _, unit in self.units()], [getattr(self, name) for name in self.head_names])

    def _add_words(
        self,
        words: tuple[Word, ...],
        channels: int,
        arch: Arch,
        norm: NormLayer | None,
        called: Mapping[str, str] = MappingProxyType({}),
    ) -> list[str]:
        """Add the modules of words that keep the channels, under the words' names or what they are `called`."""
        names: list[str] = []
        for word in words:
            module = make_plain_word(word, channels, arch, norm)
            if module is not None:
                names.append(self._free_name(called.get(word.name, word.name)))
                self.add_module(names[-1], module)
        return names

    def _free_name(self, name: str) -> str:
        return next(free for free in (name, *(f"{name}{k}" for k in range(2, 99))) if free not in self._modules)

    def _add_stem(self, arch: Arch, norm: NormLayer | None) -> list[str]:
        """Up to the last convolution one module `conv1`, a Sequential where that is more than one word; the others by
        name."""
        words = arch.stem_words
        convs = [i for i, word in enumerate(words) if word.name == "conv"]
        end = convs[-1] + 1 if convs else 0
        channels = arch.in_channels
        parts: list[nn.Module] = []
        for word in words[:end]:
            if word.name == "conv":
                width = conv_width(word)
                parts.append(
                    make_conv(ConvPlan(word.size or 3, channels, width, word.stride or 1), arch.stem_bias, arch.padding)
                )
                channels = width
            else:
                parts.append(make_plain_word(word, channels, arch, norm) or nn.Identity())
        if parts:
            self.conv1 = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
        names = ["conv1"] if parts else []
        return names + self._add_words(words[end:], channels, arch, norm, _STEM_NAMES)

    def _add_head(self, arch: Arch, channels: int) -> list[str]:
        words = parse_words(arch.head)
        first = next((i for i, word in enumerate(words) if word.name == "fc"), len(words))
        names = self._add_words(words[:first], channels, arch, None)
        features = channels * num_places(arch, words[:first])
        self.fixed_size = any(word.name == "flatten" for word in words) and not pools_all(words)
        parts: list[nn.Module] = []
        for word in words[first:]:
            if word.name == "fc":
                width = int(word.args[0]) if word.args else arch.num_classes
                parts.append(nn.Linear(features, width))
                features = width
            else:
                module = make_plain_word(word, features, arch, None)
                assert module is not None
                parts.append(module)
        if parts:
            self.fc = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
            names.append("fc")
        return names

    def stages(self) -> Iterator[tuple[str, nn.Sequential]]:
        """The stages with their names, `layer1` first."""
        for name in self.stage_names:
            yield name, getattr(self, name)

    def units(self) -> Iterator[tuple[str, Unit]]:
        """The units with their names, `layer1.0` first; a shared unit once."""
        for name, stage in self.stages():
            for i, unit in enumerate(stage):
                assert isinstance(unit, Unit)
                yield f"{name}.{i}", unit

    def run_stem(self, x: Tensor) -> Tensor:
        """The stem: N C H W to what the first unit takes."""
        self.check_input(x)
        for name in self.stem_names:
            x = getattr(self, name)(x)
        return x

    def features(self, x: Tensor, level: str = "stages") -> dict[str, Tensor]:
        """Named outputs N C H W of stem and stages (or `units`), for detection, segmentation and analysis.

        `stem` is the output ahead of the stem's last pool, as timm counts it; `reslab.nn.features.list_features` tells
        channels and strides. Raises ValueError for an unknown level.
        """
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
        self.check_input(x)
        found = {}
        for name in self.stem_names:
            x = getattr(self, name)(x)
            if not isinstance(getattr(self, name), _POOLS):
                found["stem"] = x
        for name, stage in self.stages():
            for i in range(stage.num_repeats if isinstance(stage, SharedStage) else len(stage)):
                x = stage[0 if isinstance(stage, SharedStage) else i](x)
                found[f"{name}.{i}" if level == "units" else name] = x
        return found

    def run_head(self, x: Tensor) -> Tensor:
        """The words after the last unit and the head: from the last unit's output to logits."""
        for name in (*self.last_names, *self.head_names):
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.run_stem(x)
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return self.run_head(x)

    def check_input(self, x: Tensor) -> None:
        """ValueError for an input of other channels, smaller than the total stride, or of another size where the head
        needs one."""
        if isinstance(x, Proxy):  # torch.fx follows the modules without an input to check
            return
        if x.ndim != 4 or x.shape[1] != self.arch.in_channels:
            raise refuse(
                f"images N {self.arch.in_channels} H W",
                tuple(x.shape),
                next_step=f"or create_model(..., in_channels={x.shape[1] if x.ndim == 4 else 1})",
            )
        height, width = x.shape[-2:]
        if self.fixed_size and (height, width) != self.arch.image_size:
            shown = "x".join(str(side) for side in self.arch.image_size)
            raise refuse(
                f"images of {shown} ({self.arch.name} flattens maps of one size)",
                f"{height}x{width}",
                shown,
                "set image_size",
            )
        if height < self.total_stride or width < self.total_stride:
            least = self.total_stride
            raise refuse(
                f"images of at least {least}x{least}, the total stride of {self.arch.name}",
                f"{height}x{width}",
                f"{least}x{least}",
            )
