"""What goes with exported weights: `config.json` and a model card, in the layout of the Hugging Face hub."""

import json
from collections.abc import Mapping
from typing import Any

from reslab.nn.network import Network
from reslab.report.format import count, percent
from reslab.spec.config import to_dict
from reslab.spec.grammar import parse_words
from reslab.spec.preprocess import Preprocess


def config(network: Network, architecture: str) -> dict[str, Any]:
    """config.json: timm's keys (architecture, num_classes, pretrained_cfg, label_names), transformers' id2label, and
    under `reslab` the whole description."""
    names = list(network.classes or ())
    preprocess = network.preprocess
    return {
        "architecture": architecture,
        "num_classes": network.arch.num_classes,
        "num_features": _num_features(network),
        "label_names": names,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "pretrained_cfg": pretrained_cfg(network, preprocess) if preprocess else {},
        "reslab": {
            "arch": to_dict(network.arch),
            "preprocess": to_dict(preprocess),
            "temperature": network.temperature,
        },
    }


def pretrained_cfg(network: Network, preprocess: Preprocess) -> dict[str, Any]:
    """The preprocessing as timm tells it: input_size, crop_pct, mean, std, interpolation."""
    height, width = network.arch.image_size
    sizes = {word.name: word.args[0] for word in parse_words(preprocess.words) if word.args}
    resized, cropped = sizes.get("resize"), sizes.get("center-crop", height)
    return {
        "input_size": [network.arch.in_channels, height, width],
        "fixed_input_size": network.fixed_size,
        "num_classes": network.arch.num_classes,
        "crop_pct": int(cropped) / int(resized) if resized else 1.0,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "label_names": list(network.classes or ()) or None,
        "first_conv": "conv1",
        "classifier": "fc",
    }


def _num_features(network: Network) -> int | None:
    weight = network.state_dict().get("fc.weight")
    return None if weight is None else int(weight.shape[1])


def model_card(network: Network, header: Mapping[str, Any]) -> str:
    """README.md: what the network is, what it scored, how it is used; its first lines are what the hub reads."""
    arch = network.arch
    scores = header.get("result") or header.get("scores") or {}
    rows = [
        ("Network", f"{arch.name}: {arch.source}"),
        ("Weighted layers", count(arch.depth)),
        ("Parameters", count(sum(parameter.numel() for parameter in network.parameters()))),
        ("Input", "x".join(str(side) for side in arch.input_size)),
        ("Classes", f"{arch.num_classes}{': ' + ', '.join(network.classes[:20]) if network.classes else ''}"),
    ]
    if network.preprocess is not None:
        words = network.preprocess.words or "as it is"
        rows.append(("Preprocessing", f"{words}; mean {network.preprocess.mean}, std {network.preprocess.std}"))
    if scores.get("top1") is not None:
        rows.append(("Accuracy", percent(scores["top1"])))
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    front = "---\nlibrary_name: reslab\npipeline_tag: image-classification\ntags:\n- image-classification\n---\n"
    return (
        f"{front}\n# {arch.name}\n\n| | |\n| --- | --- |\n{table}\n\n"
        "```python\nimport reslab\n\n"
        'network = reslab.load("model.safetensors")          # in eval mode, with its classes\n'
        'print(reslab.predict(network, "picture.jpg"))\n```\n'
    )


def config_text(facts: Mapping[str, Any]) -> str:
    """The text of config.json."""
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
