"""A network: stem, stages of units, the words after the last unit, head."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor, nn
from torch.fx import Proxy

from reslab.nn.block import ResidualBlock
from reslab.nn.checkpoints.load_report import LoadReport
from reslab.nn.init import init_weights
from reslab.nn.layers import NormLayer, get_norm_layer, make_conv, make_layer
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import ConvSpec, has_global_pool, layout_stages, num_positions, stem_channels, total_stride
from reslab.spec.preprocess import Preprocess
from reslab.spec.stem_head import conv_width

FEATURE_LEVELS = ("stages", "blocks")
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# What torchvision calls the words after the stem's convolution.
_STEM_ALIASES = {"norm": "bn1", "act": "act1", "bias": "bias1"}


class SharedStage(nn.Sequential):
    """One unit run through `num_repeats` times: units that share a set of weights, stored once."""

    def __init__(self, block: ResidualBlock, num_repeats: int) -> None:
        super().__init__(block)
        self.num_repeats = num_repeats

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.num_repeats):
            x = self[0](x)
        return x


class ResidualNetwork(nn.Module):
    """logits = head(last(stages(stem(x)))), built from an `Arch`; N C H W to N num_classes.

    Parameter names are torchvision's wherever torchvision has the network. `classes` and `preprocess` are known once it
    was trained or loaded, `temperature` once one was fitted (`predict` divides the logits by it); `loaded` tells what
    came of loading a checkpoint. `norm_layer` overrides the architecture's norm by a callable taking the number of
    channels.
    Raises ValueError for a description that means nothing, and for inputs smaller than the total stride.
    """

    def __init__(self, arch: Arch, norm_layer: NormLayer | None = None) -> None:
        super().__init__()
        stage_specs = layout_stages(arch)
        norm = norm_layer or get_norm_layer(arch)
        self.arch = replace(arch, norm="custom") if norm_layer else arch
        self.classes: tuple[str, ...] | None = None
        self.preprocess: Preprocess | None = None
        self.temperature: float | None = None
        self.load_report: LoadReport | None = None
        self.stem_names = self._add_stem(arch, norm)
        self.stage_names = tuple(f"layer{number}" for number in range(1, len(stage_specs) + 1))
        for name, block_specs in zip(self.stage_names, stage_specs, strict=True):
            blocks = [
                ResidualBlock(spec, arch, norm) for spec in (block_specs[:1] if arch.share_weights else block_specs)
            ]
            self.add_module(
                name, SharedStage(blocks[0], len(block_specs)) if arch.share_weights else nn.Sequential(*blocks)
            )
        channels = stage_specs[-1][-1].out_channels if stage_specs else stem_channels(arch)
        self.final_names = self._add_ops(
            parse_ops(arch.order_spec.final_ops) if stage_specs else (), channels, arch, norm
        )
        self.total_stride = total_stride(arch)
        self.head_names = self._add_head(arch, channels)
        stem = [getattr(self, name) for name in self.stem_names]
        init_weights(
            arch, stem, [block for _, block in self.blocks()], [getattr(self, name) for name in self.head_names]
        )

    def _add_ops(
        self,
        ops: tuple[Op, ...],
        channels: int,
        arch: Arch,
        norm: NormLayer | None,
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> list[str]:
        """Add the modules of words that keep the channels, under the words' names or what they are `called`."""
        names: list[str] = []
        for op in ops:
            module = make_layer(op, channels, arch, norm)
            if module is not None:
                names.append(self._unique_name(aliases.get(op.name, op.name)))
                self.add_module(names[-1], module)
        return names

    def _unique_name(self, name: str) -> str:
        return next(
            candidate for candidate in (name, *(f"{name}{k}" for k in range(2, 99))) if candidate not in self._modules
        )

    def _add_stem(self, arch: Arch, norm: NormLayer | None) -> list[str]:
        """Up to the last convolution one module `conv1`, a Sequential where that is more than one word; the others by
        name."""
        ops = arch.stem_ops
        conv_indices = [i for i, op in enumerate(ops) if op.name == "conv"]
        end = conv_indices[-1] + 1 if conv_indices else 0
        channels = arch.in_channels
        layers: list[nn.Module] = []
        for op in ops[:end]:
            if op.name == "conv":
                width = conv_width(op)
                layers.append(
                    make_conv(ConvSpec(op.size or 3, channels, width, op.stride or 1), arch.stem_bias, arch.padding)
                )
                channels = width
            else:
                layers.append(make_layer(op, channels, arch, norm) or nn.Identity())
        if layers:
            self.conv1 = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
        names = ["conv1"] if layers else []
        return names + self._add_ops(ops[end:], channels, arch, norm, _STEM_ALIASES)

    def _add_head(self, arch: Arch, channels: int) -> list[str]:
        ops = parse_ops(arch.head)
        first_fc = next((i for i, op in enumerate(ops) if op.name == "fc"), len(ops))
        names = self._add_ops(ops[:first_fc], channels, arch, None)
        num_features = channels * num_positions(arch, ops[:first_fc])
        self.needs_fixed_size = any(op.name == "flatten" for op in ops) and not has_global_pool(ops)
        layers: list[nn.Module] = []
        for op in ops[first_fc:]:
            if op.name == "fc":
                width = int(op.args[0]) if op.args else arch.num_classes
                layers.append(nn.Linear(num_features, width))
                num_features = width
            else:
                module = make_layer(op, num_features, arch, None)
                assert module is not None
                layers.append(module)
        if layers:
            self.fc = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
            names.append("fc")
        return names

    def stages(self) -> Iterator[tuple[str, nn.Sequential]]:
        """The stages with their names, `layer1` first."""
        for name in self.stage_names:
            yield name, getattr(self, name)

    def blocks(self) -> Iterator[tuple[str, ResidualBlock]]:
        """The units with their names, `layer1.0` first; a shared unit once."""
        for name, stage in self.stages():
            for i, block in enumerate(stage):
                assert isinstance(block, ResidualBlock)
                yield f"{name}.{i}", block

    def forward_stem(self, x: Tensor) -> Tensor:
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
        if level not in FEATURE_LEVELS:
            raise unknown_name("level", level, FEATURE_LEVELS)
        self.check_input(x)
        outputs = {}
        for name in self.stem_names:
            x = getattr(self, name)(x)
            if not isinstance(getattr(self, name), _POOLS):
                outputs["stem"] = x
        for name, stage in self.stages():
            for i in range(stage.num_repeats if isinstance(stage, SharedStage) else len(stage)):
                x = stage[0 if isinstance(stage, SharedStage) else i](x)
                outputs[f"{name}.{i}" if level == "blocks" else name] = x
        return outputs

    def forward_tail(self, x: Tensor) -> Tensor:
        """The words after the last unit and the head: from the last unit's output to logits."""
        for name in (*self.final_names, *self.head_names):
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_stem(x)
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return self.forward_tail(x)

    def check_input(self, x: Tensor) -> None:
        """ValueError for an input of other channels, smaller than the total stride, or of another size where the head
        needs one."""
        if isinstance(x, Proxy):  # torch.fx follows the modules without an input to check
            return
        if x.ndim != 4 or x.shape[1] != self.arch.in_channels:
            raise invalid(
                f"images N {self.arch.in_channels} H W",
                tuple(x.shape),
                next_step=f"or create_model(..., in_channels={x.shape[1] if x.ndim == 4 else 1})",
            )
        height, width = x.shape[-2:]
        if self.needs_fixed_size and (height, width) != self.arch.image_size:
            expected = "x".join(str(side) for side in self.arch.image_size)
            raise invalid(
                f"images of {expected} ({self.arch.name} flattens maps of one size)",
                f"{height}x{width}",
                expected,
                "set image_size",
            )
        if height < self.total_stride or width < self.total_stride:
            min_size = self.total_stride
            raise invalid(
                f"images of at least {min_size}x{min_size}, the total stride of {self.arch.name}",
                f"{height}x{width}",
                f"{min_size}x{min_size}",
            )
