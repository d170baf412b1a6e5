"""The network: stem, stages of blocks, final operations, head."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from reslab.nn.block import ResidualBlock
from reslab.nn.checkpoints.load_report import LoadReport
from reslab.nn.init import init_weights
from reslab.nn.registry import NormLayer, Site, get_norm_layer, make_conv, make_layer
from reslab.nn.timm_methods import FEATURE_LEVELS, TimmMethods
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import Stages, final_ops, layout_stages, stem_channels, stem_ops
from reslab.spec.operations import is_pool
from reslab.spec.order import conv_kind, conv_width, has_global_pool
from reslab.spec.shapes import num_positions, outer_conv, total_stride, transition_dilations, transition_strides

# torchvision's names for the operations after the stem's convolution.
_STEM_ALIASES = {"norm": "bn1", "act": "act1", "bias": "bias1"}


class SharedStage(nn.Sequential):
    """One block run `num_repeats` times: a stage whose blocks share one set of weights, stored once."""

    def __init__(self, block: ResidualBlock, num_repeats: int) -> None:
        super().__init__(block)
        self.num_repeats = num_repeats

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.num_repeats):
            x = self[0](x)
        return x


class ResidualNetwork(TimmMethods):
    """logits = head(final(stages(stem(x)))), built from an `Arch`; N C H W to N num_classes.

    Parameters have torchvision's names wherever torchvision has the network. `norm_layer`, a callable that takes the
    number of channels, overrides the architecture's norm.

    Trained or loaded networks carry more (`set_metadata`): `classes`; `preprocess`, which turns an image into the
    network's input; `temperature`, by which `predict` divides the logits, if one was fitted; `task`, its name and the
    values fitted to the data, None for classification; `load_report`, which lists how the entries of a loaded
    checkpoint matched.

    Raises ValueError for an invalid architecture, and in `forward` for inputs smaller than the total stride.
    """

    def __init__(self, arch: Arch, norm_layer: NormLayer | None = None) -> None:
        super().__init__()
        stages = layout_stages(arch)
        norm = norm_layer or get_norm_layer(arch)
        self.arch = replace(arch, norm="custom") if norm_layer else arch
        self.load_report: LoadReport | None = None
        site = Site(arch, arch.in_channels, norm)
        self.stem_names = self._add_stem(site)
        self.stage_names = self._add_stages(stages, site.at(stem_channels(arch)))
        channels = stages[-1][-1].out_channels if stages else stem_channels(arch)
        self.final_names = self._add_ops(final_ops(arch) if stages else (), site.at(channels))
        self.total_stride = total_stride(arch, stages)
        head_ops = parse_ops(arch.head)
        self.needs_fixed_size = any(op.name == "flatten" for op in head_ops) and not has_global_pool(head_ops)
        self.head_names = self._add_head(head_ops, stages, site.at(channels))
        stem = [getattr(self, name) for name in self.stem_names]
        head = [getattr(self, name) for name in self.head_names]
        init_weights(arch, stem, [block for _, block in self.blocks()], head)

    @property
    def fitted_size(self) -> tuple[int, int] | None:
        """The size that the network is described for; None for signals and volumes."""
        return self.arch.height_width if self.arch.dims == 2 else None

    def to_empty(self, *, device: Any, recurse: bool = True) -> "ResidualNetwork":
        """Move to a device without values, as `torch.nn.Module.to_empty`; buffers that no file holds keep theirs."""
        super().to_empty(device=device, recurse=recurse)
        for module in self.modules():
            reset: Any = getattr(module, "reset_buffers", None)
            if reset is not None:
                reset()
        return self

    def _add_stages(self, stages: Stages, site: Site) -> tuple[str, ...]:
        arch, names = site.arch, []
        transitions = zip(stages, transition_strides(arch), transition_dilations(arch), strict=True)
        for number, (specs, stride, dilation) in enumerate(transitions, 1):
            if arch.transition and number > 1:
                transition = self._make_transition(site, specs[0].in_channels, stride, dilation)
                self.add_module(f"transition{number}", transition)
            blocks = [ResidualBlock(spec, arch, site.norm) for spec in (specs[:1] if arch.share_weights else specs)]
            stage = SharedStage(blocks[0], len(specs)) if arch.share_weights else nn.Sequential(*blocks)
            names.append(f"layer{number}")
            self.add_module(names[-1], stage)
            site = site.at(specs[-1].out_channels)
        return tuple(names)

    def _make_transition(self, site: Site, out_channels: int, stride: int, dilation: int) -> nn.Sequential:
        """Return the operations between two stages: from the channels of one to those of the next, with its stride."""
        layers: list[nn.Module] = []
        for op in parse_ops(site.arch.transition):
            if op.name == "conv":
                conv = outer_conv(op, site.channels, out_channels, stride, dilation)
                layers.append(make_conv(site, conv, site.arch.bias))
                site = site.at(out_channels)
            else:
                layers.append(make_layer(op, site) or nn.Identity())
        return nn.Sequential(*layers)

    def _add_ops(self, ops: tuple[Op, ...], site: Site, aliases: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        """Add modules for operations under the operation's name or alias; return the names."""
        names: list[str] = []
        for op in ops:
            if op.name == "conv":
                conv = outer_conv(op, site.channels, conv_width(op), op.stride or 1)
                module: nn.Module | None = make_conv(site, conv, site.arch.bias, conv_kind(op))
                site = site.at(conv.out_channels)
            else:
                module = make_layer(op, site)
            if module is not None:
                names.append(self._unique_name(aliases.get(op.name, op.name)))
                self.add_module(names[-1], module)
        return names

    def _unique_name(self, name: str) -> str:
        return next(
            candidate for candidate in (name, *(f"{name}{k}" for k in range(2, 99))) if candidate not in self._modules
        )

    def _add_stem(self, site: Site) -> list[str]:
        """Add the stem: one module `conv1` up to the last convolution, then one module for each further operation.

        `conv1` is a Sequential where a deep stem has several operations up to there, as in timm.
        """
        ops = stem_ops(site.arch)
        conv_indices = [i for i, op in enumerate(ops) if op.name == "conv"]
        end = conv_indices[-1] + 1 if conv_indices else 0
        layers: list[nn.Module] = []
        for op in ops[:end]:
            if op.name == "conv":
                conv = outer_conv(op, site.channels, conv_width(op), op.stride or 1)
                layers.append(make_conv(site, conv, site.arch.stem_bias, conv_kind(op)))
                site = site.at(conv.out_channels)
            else:
                layers.append(make_layer(op, site) or nn.Identity())
        if layers:
            self.conv1 = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
        names = ["conv1"] if layers else []
        return names + self._add_ops(ops[end:], site, _STEM_ALIASES)

    def _add_head(self, ops: tuple[Op, ...], stages: Stages, site: Site) -> list[str]:
        """Add the head: a module for each operation ahead of the first linear layer, the rest as one module `fc`."""
        arch = site.arch
        first_fc = next((i for i, op in enumerate(ops) if op.name == "fc"), len(ops))
        names = self._add_ops(ops[:first_fc], site)
        widths = [conv_width(op) for op in ops[:first_fc] if op.name == "conv"]
        num_features = (widths[-1] if widths else site.channels) * num_positions(arch, stages, ops[:first_fc])
        layers: list[nn.Module] = []
        for op in ops[first_fc:]:
            if op.name == "fc":
                width = int(op.args[0]) if op.args else arch.num_classes
                layers.append(nn.Linear(num_features, width))
                num_features = width
            else:
                module = make_layer(op, site.at(num_features))
                assert module is not None
                layers.append(module)
        if layers:
            self.fc = layers[0] if len(layers) == 1 else nn.Sequential(*layers)
            names.append("fc")
        return names

    def stages(self) -> Iterator[tuple[str, nn.Sequential]]:
        """Yield the stages with their names, `layer1` first."""
        for name in self.stage_names:
            yield name, getattr(self, name)

    def blocks(self) -> Iterator[tuple[str, ResidualBlock]]:
        """Yield the blocks with their names, `layer1.0` first; a shared block once."""
        for name, stage in self.stages():
            for i, block in enumerate(stage):
                assert isinstance(block, ResidualBlock)
                yield f"{name}.{i}", block

    def truncate(self, num_stages: int, stride: int) -> None:
        """Remove all modules after stage `num_stages`, whose output has this stride from the input."""
        self.remove_head()
        removed_stages = self.stage_names[num_stages:]
        transitions = [name.replace("layer", "transition") for name in removed_stages]
        for name in (*removed_stages, *transitions, *self.final_names):
            self._modules.pop(name, None)
        self.stage_names, self.final_names, self.total_stride = self.stage_names[:num_stages], [], stride

    def remove_head(self) -> None:
        """Remove the modules of the head; the network then returns maps N C H W of any size."""
        for name in self.head_names:
            self._modules.pop(name, None)
        self.head_names, self.needs_fixed_size = [], False

    def forward_stem(self, x: Tensor) -> Tensor:
        """Run the stem: N C H W to the input of the first block."""
        self.check_input(x)
        for name in self.stem_names:
            x = getattr(self, name)(x)
        return x

    def features(self, x: Tensor, level: str = "stages", num_stages: int | None = None) -> dict[str, Tensor]:
        """Return the outputs N C H W of stem and stages (or `blocks`) by name.

        `stem` is the output ahead of the stem's last pool, as in timm; `reslab.nn.timm_methods.list_features` lists
        channels and strides. No stage after the first `num_stages` runs. Raises ValueError for an unknown level.
        """
        if level not in FEATURE_LEVELS:
            raise unknown_name("level", level, FEATURE_LEVELS)
        self.check_input(x)
        outputs = {}
        for name in self.stem_names:
            x = getattr(self, name)(x)
            if not _is_pool(name):
                outputs["stem"] = x
        for name, stage in itertools.islice(self.stages(), num_stages):
            x = self.forward_transition(name, x)
            for i in range(stage.num_repeats if isinstance(stage, SharedStage) else len(stage)):
                x = stage[0 if isinstance(stage, SharedStage) else i](x)
                outputs[f"{name}.{i}" if level == "blocks" else name] = x
        return outputs

    def forward_transition(self, stage_name: str, x: Tensor) -> Tensor:
        """Run the operations ahead of a stage; without any, return x itself."""
        transition = self._modules.get(stage_name.replace("layer", "transition"))
        return x if transition is None else transition(x)

    def forward_tail(self, x: Tensor) -> Tensor:
        """Run the final operations and the head: from the last block's output to logits."""
        for name in (*self.final_names, *self.head_names):
            x = getattr(self, name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_stem(x)
        for name in self.stage_names:
            x = getattr(self, name)(self.forward_transition(name, x))
        return self.forward_tail(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the maps N C H W ahead of the global pool, as timm's method of this name."""
        x = self.forward_stem(x)
        for name in self.stage_names:
            x = getattr(self, name)(self.forward_transition(name, x))
        return self.forward_maps_tail(x)

    def forward_maps_tail(self, x: Tensor) -> Tensor:
        """Run what follows the last block up to the head's pool: N C H W to maps."""
        for name in (*self.final_names, *self.head_names[: self._num_map_layers()]):
            x = getattr(self, name)(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or with `pre_logits` the features ahead of the last linear layer, of `forward_features(x)`."""
        for name in self.head_names[self._num_map_layers() :]:
            module = getattr(self, name)
            if pre_logits and name == "fc":
                return x if isinstance(module, nn.Linear) else module[:-1](x)
            x = module(x)
        return x

    def _num_map_layers(self) -> int:
        """Return the number of the head's modules ahead of its pool: they belong to the features."""
        ends = [i for i, name in enumerate(self.head_names) if _is_pool(name) or name == "flatten"]
        return ends[0] if ends else len(self.head_names)

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError for an input with wrong channels or type, or of a size that the network cannot take."""
        if isinstance(x, Proxy):  # torch.fx traces the modules without a real input
            return
        if not isinstance(x, Tensor):
            step = "torch.from_numpy(x) for an array, network.preprocess(image) for an image"
            required = f"a tensor of {_INPUTS[self.arch.dims].format(self.arch.in_channels)}"
            raise invalid(required, f"a {type(x).__name__}", next_step=step)
        channels, dims = self.arch.in_channels, self.arch.dims
        if x.ndim != dims + 2 or x.shape[1] != channels:
            nearest, step = _shape_advice(tuple(x.shape), channels) if dims == 2 else ("", "")
            raise invalid(_INPUTS[dims].format(channels), tuple(x.shape), nearest, step)
        if not x.is_floating_point():
            nearest = "x.float() / 255, then normalized" if x.dtype == torch.uint8 else "x.float()"
            raise invalid("images in floating point, normalized as in training", x.dtype, nearest)
        if x.dtype == torch.float64 and all(weight.dtype != torch.float64 for weight in self.parameters()):
            raise invalid("images in the precision of the network's weights", x.dtype, "x.float()")
        sides = tuple(x.shape[2:])
        got = _format_sides(sides)
        if self.needs_fixed_size and sides != self.arch.image_size:
            expected = _format_sides(self.arch.image_size)
            required = f"images of {expected} ({self.arch.name} flattens maps of one size)"
            raise invalid(required, got, expected, "set image_size")
        # A clip may have fewer frames than the stride: the convolutions are padded.
        if min(sides[-2:]) < self.total_stride:
            min_size = _format_sides((self.total_stride,) * min(dims, 2))
            raise invalid(f"images of at least {min_size}, the total stride of {self.arch.name}", got, min_size)


# What a network of 1, 2 or 3 dimensions takes.
_INPUTS = {1: "signals N {} T", 2: "images N {} H W", 3: "volumes or clips N {} D H W"}


def _format_sides(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _is_pool(name: str) -> bool:
    """Return whether a module of the stem is a pool, by the name of its operation."""
    return is_pool(Op(name.rstrip("0123456789")))


def _shape_advice(shape: tuple[int, ...], channels: int) -> tuple[str, str]:
    """Return the expression that makes images N C H W of an `x` of this shape, and another next step; empty if none."""
    if len(shape) == 4 and shape[3] == channels:
        return "x.permute(0, 3, 1, 2)", ""
    if len(shape) == 3 and shape[0] == channels:
        return "x[None]", ""
    if len(shape) == 3 and shape[2] == channels:
        return "x.permute(2, 0, 1)[None]", ""
    if channels == 1 and len(shape) in (2, 3):
        return "x[:, None]" if len(shape) == 3 else "x[None, None]", ""
    if len(shape) != 4:
        return "", ""
    nearest = f"x.expand(-1, {channels}, -1, -1)" if shape[1] == 1 else ""
    return nearest, f"or create_model(..., in_channels={shape[1]})"
