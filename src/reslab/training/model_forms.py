"""The forms in which a model is named, checked without torch, so that a wrong name is an error at once.

The zoo is imported where a name is checked: commands that only print their help import this module.
"""

from pathlib import Path

from reslab.spec.errors import invalid, unknown_name

GRAPH_SUFFIXES = (".onnx", ".pt2", ".xml")
MODEL_FORMS = (
    "a run, a file of weights, an exported .onnx, .pt2 or .xml, a model of the zoo, timm/NAME, torchvision/NAME, "
    "hf-hub:ORGANIZATION/NAME, or package.module:factory"
)


def check_model_source(source: str) -> None:
    """Raise ValueError for a path that is no run and for a name that no library can have.

    Names of libraries, factories and files are left to `reslab.training.model_source.open_model`.
    """
    from reslab.spec.zoo.resolve import parse_model_name
    from reslab.training.run import Run

    path = Path(source)
    if path.is_dir() and not (path / "model.safetensors").exists():
        Run(path)
    elif not path.exists() and "/" not in source and ":" not in source:
        if path.suffix in (*GRAPH_SUFFIXES, ".safetensors", ".pth", ".pt"):
            raise unknown_model(source)
        try:
            parse_model_name(source)
        except ValueError:
            raise unknown_model(source) from None


def unknown_model(name: str) -> ValueError:
    """Return the error for a text that names no model: the nearest names, and the forms that are accepted."""
    if Path(name).suffix in (*GRAPH_SUFFIXES, ".safetensors", ".pth", ".pt") or "/" in name:
        return invalid(MODEL_FORMS, f"{name} (no such file)", next_step="`reslab models` and `reslab runs` list names")
    from reslab.spec.zoo.dense import model_names

    next_step = f"accepted: {MODEL_FORMS}; `reslab models` and `reslab runs` list names"
    return unknown_name("model", name, model_names(), next_step)
