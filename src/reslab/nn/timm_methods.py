"""The methods and attributes of timm's networks: head, features and configuration under timm's names."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reslab.nn.init import init_linear
from reslab.nn.metadata import ModelMetadata
from reslab.nn.registry import CONV_TYPES, Site, get_norm_layer
from reslab.spec.arch import Arch
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.grammar import Op, parse_ops
from reslab.spec.layout import Stages, layout_stages, stem_channels, stem_ops
from reslab.spec.library_options import with_classifier, with_global_pool
from reslab.spec.operations import is_pool
from reslab.spec.order import conv_width, has_global_pool, op_stride
from reslab.spec.preprocess import Preprocess
from reslab.spec.shapes import transition_strides
from reslab.spec.transform_grammar import parse_transforms

if TYPE_CHECKING:
    from reslab.nn.block import ResidualBlock

FEATURE_LEVELS = ("stages", "blocks")


@dataclass(frozen=True)
class Feature:
    """An intermediate output: its name (`stem`, `layer1`, `layer1.0`), channels, and stride from the input."""

    name: str
    channels: int
    stride: int


def list_features(arch: Arch, level: str = "stages") -> list[Feature]:
    """Return the outputs that `ResidualNetwork.features` computes, in order: the stem ahead of its pool, then the rest.

    `level` is `stages` or `blocks`. Raises ValueError for an unknown level.
    """
    if level not in FEATURE_LEVELS:
        raise unknown_name("level", level, FEATURE_LEVELS)
    pre_pool_stride, stride = 1, 1
    for op in stem_ops(arch):
        stride *= op_stride(op)
        pre_pool_stride = pre_pool_stride if is_pool(op) else stride
    features = [Feature("stem", stem_channels(arch), pre_pool_stride)]
    for number, (blocks, transition) in enumerate(zip(layout_stages(arch), transition_strides(arch), strict=True), 1):
        stride *= transition
        for block in blocks:
            stride *= block.stride
            features.append(Feature(block.name, block.out_channels, stride))
        if level == "stages":
            features[-len(blocks) :] = [Feature(f"layer{number}", blocks[-1].out_channels, stride)]
    return features


class FeatureInfo(list[dict[str, Any]]):
    """The outputs of stem and stages in timm's form: dictionaries with `num_chs`, `reduction` and `module`.

    `out_indices` are those that a feature network returns; `channels()`, `reduction()`, `module_name()` are of these.
    """

    def __init__(self, features: Sequence[Feature], stem_end: str, out_indices: Sequence[int] | None = None) -> None:
        modules = (stem_end, *(feature.name for feature in features[1:]))
        super().__init__(
            {"num_chs": feature.channels, "reduction": feature.stride, "module": module, "index": index}
            for index, (feature, module) in enumerate(zip(features, modules, strict=True))
        )
        self.out_indices = tuple(range(len(self)) if out_indices is None else out_indices)

    def get(self, key: str) -> list[Any]:
        """Return a value of each output."""
        return [self[index][key] for index in self.out_indices]

    def get_dicts(self, keys: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the dictionaries of the outputs, or these keys of them."""
        return [{key: self[index][key] for key in keys or self[index]} for index in self.out_indices]

    def channels(self) -> list[int]:
        """Return the channels of each output."""
        return self.get("num_chs")

    def reduction(self) -> list[int]:
        """Return the stride of each output from the input."""
        return self.get("reduction")

    def module_name(self) -> list[str]:
        """Return the name of the module that computes each output."""
        return self.get("module")


class TimmMethods(nn.Module, ModelMetadata, ABC):
    """The methods and attributes of timm's networks that concern features, head and configuration."""

    arch: Arch
    stem_names: list[str]
    stage_names: tuple[str, ...]
    final_names: list[str]
    head_names: list[str]
    needs_fixed_size: bool

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, whose outputs are the logits; an Identity without one."""
        name = self._classifier_name
        return self.get_submodule(name) if name else nn.Identity()

    @property
    def _classifier_name(self) -> str:
        """The name of the last linear layer; empty without one."""
        linear = [name for name, module in self.named_modules() if isinstance(module, nn.Linear)]
        return linear[-1] if "fc" in self.head_names and linear else ""

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last linear layer by a new one of `num_classes` outputs; 0: none, the features are the output.

        `global_pool`: `avg`, `max`, or with 0 classes an empty name for maps as the output; None keeps the pool. Class
        names and temperature go, all other weights stay. Raises ValueError for a head that cannot have this.
        """
        if num_classes < 0:
            raise invalid("num_classes from 0", num_classes, "0")
        arch = with_classifier(self.arch, num_classes)
        if global_pool is not None:
            arch = with_global_pool(arch, global_pool)
        self._replace_head(arch)
        self.classes = self.temperature = None

    def _replace_head(self, arch: Arch) -> None:
        head_ops, stages = parse_ops(arch.head), layout_stages(arch)
        is_custom = arch.norm == "custom"
        if is_custom and any(op.name == "norm" for op in head_ops):
            raise invalid(
                "a head without norm for norm_layer=CALLABLE", repr(arch.head), next_step="build a new network"
            )
        channels = stages[-1][-1].out_channels if stages else stem_channels(arch)
        old = {name: self._modules.pop(name) or nn.Identity() for name in self.head_names}
        self.arch = arch
        self.head_names = self._add_head(
            head_ops, stages, Site(arch, channels, None if is_custom else get_norm_layer(arch))
        )
        self.needs_fixed_size = any(op.name == "flatten" for op in head_ops) and not has_global_pool(head_ops)
        like = next((parameter for parameter in self.parameters() if parameter.is_floating_point()), torch.empty(0))
        old_tensors = {
            f"{name}.{key}": value for name, module in old.items() for key, value in module.state_dict().items()
        }
        for name in self.head_names:
            module = getattr(self, name).to(like.device, like.dtype).train(self.training)
            init_linear(module, arch)
            for key, tensor in module.state_dict().items():
                full_key = f"{name}.{key}"
                if full_key in old_tensors and full_key.rpartition(".")[0] != self._classifier_name:
                    tensor.copy_(old_tensors[full_key])

    @abstractmethod
    def blocks(self) -> Iterator[tuple[str, "ResidualBlock"]]:
        """Yield the blocks with their names."""

    @abstractmethod
    def features(self, x: Tensor, level: str = "stages", num_stages: int | None = None) -> dict[str, Tensor]:
        """Return the outputs of stem and stages by name."""

    @abstractmethod
    def _add_head(self, ops: tuple[Op, ...], stages: Stages, site: Site) -> list[str]:
        """Add the modules of a head; return their names."""

    @abstractmethod
    def forward_maps_tail(self, x: Tensor) -> Tensor:
        """Run what follows the last block up to the head's pool."""

    @property
    def num_classes(self) -> int:
        """The number of outputs of the last linear layer; 0 without one, as in timm."""
        return self.arch.num_classes if self._classifier_name else 0

    @property
    def head_hidden_size(self) -> int:
        """The number of features ahead of the last linear layer, as in timm."""
        classifier = self.get_classifier()
        return classifier.in_features if isinstance(classifier, nn.Linear) else self.num_features

    @property
    def num_features(self) -> int:
        """The number of channels of `forward_features`, as in timm."""
        widths = [conv_width(op) for op in parse_ops(self.arch.head) if op.name == "conv"]
        return widths[-1] if widths else layout_stages(self.arch)[-1][-1].out_channels

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's record of a network: sizes, names of its first and last layer, and its preprocessing if known.

        `timm.data.resolve_model_data_config(network)` reads it.
        """
        convs = (name for name, module in self.named_modules() if isinstance(module, CONV_TYPES))
        return {
            "architecture": self.arch.name,
            "num_classes": self.num_classes,
            "input_size": self.arch.input_size,
            "fixed_input_size": self.needs_fixed_size,
            "first_conv": next(convs, None),
            "classifier": self._classifier_name or None,
            **_preprocess_cfg(self.preprocess),
        }

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg` under its older name."""
        return self.pretrained_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward pass in place of keeping its activations, or no longer."""
        for _, block in self.blocks():
            block.recomputes = enable

    @property
    def feature_info(self) -> FeatureInfo:
        """The outputs of stem and stages: channels, stride and module of each."""
        return FeatureInfo(list_features(self.arch), self.stem_end)

    @property
    def stem_end(self) -> str:
        """The name of the stem's last module ahead of its pool."""
        names = [name for name in self.stem_names if not is_pool(Op(name.rstrip("0123456789")))]
        return names[-1] if names else ""

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the output of `forward_features` and a list of those of stem and stages, or with an option the list.

        `indices`: an int is the number of last outputs; None: all. `norm`: the last stage's output is that after the
        norm that follows it. `stop_early`: run no stage after the last of `indices`, whose output is then the first
        value. Raises ValueError for indices that are not there, and for another format.
        """
        if output_fmt != "NCHW":
            raise invalid("output_fmt NCHW", output_fmt, "NCHW")
        num_features = len(self.arch.depths) + 1
        chosen = _feature_indices(indices, num_features)
        last = max(chosen)
        outputs = list(self.features(x, num_stages=last if stop_early else None).values())
        is_complete = len(outputs) == num_features
        end = self.forward_maps_tail(outputs[-1]) if is_complete and (norm or not intermediates_only) else outputs[-1]
        maps = [end if norm and index == num_features - 1 else outputs[index] for index in chosen]
        return maps if intermediates_only else (end, maps)


def _feature_indices(indices: int | Sequence[int] | None, num_features: int) -> list[int]:
    """Return the indices of outputs, counted from the end if below 0."""
    if indices is None or isinstance(indices, int):
        count = num_features if indices is None else indices
        chosen = list(range(num_features - count, num_features))
    else:
        chosen = [index + num_features if index < 0 else index for index in indices]
    if not chosen or min(chosen) < 0 or max(chosen) >= num_features:
        required = f"indices from 0 to {num_features - 1}, or how many of the {num_features} outputs"
        raise invalid(required, indices, str(list(range(num_features))))
    return chosen


def _preprocess_cfg(preprocess: Preprocess | None) -> dict[str, Any]:
    """Return mean, std, interpolation and crop in timm's form; without a resize or a crop, these are left out."""
    if preprocess is None:
        return {}
    calls = {call.name: call for call in parse_transforms(preprocess.transform)} if preprocess.transform else {}
    values: dict[str, Any] = {"mean": preprocess.mean, "std": preprocess.std}
    if "resize" in calls:
        args = calls["resize"].args
        sides = [arg for arg in args if isinstance(arg, int)]
        values["interpolation"] = next((arg for arg in args if isinstance(arg, str)), "bilinear")
        values["crop_mode"] = "squash" if len(sides) > 1 else "center"
        if "center-crop" in calls:
            crop = calls["center-crop"].args[0]
            assert isinstance(crop, int)
            values["crop_pct"] = crop / sides[0]
    return values
