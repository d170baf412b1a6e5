"""Commands that need no torch do not import it, also when they fail, so that they answer at once."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

from reslab.data.dataset_names import DATASET_NAMES
from reslab.data.named import DATASETS
from reslab.nn.checkpoints.safetensors_io import save_weights
from reslab.nn.factory import create_model
from reslab.spec.preprocess import Preprocess

SLOW_MODULES = ("torch", "torchvision", "scipy", "matplotlib", "sklearn", "PIL", "jinja2")
CODE = f"""
import sys
from reslab.cli.app import main
for line in sys.stdin.read().splitlines():
    code = main(line.split())
    print("answered", code, *[name for name in {SLOW_MODULES!r} if name in sys.modules])
"""
EXIT_CODES = {
    "--version": 0,
    "--help": 0,
    "train --help": 0,
    "models": 0,
    "recipes": 0,
    "studies": 0,
    "transforms": 0,
    "runs": 0,
    "nosuch": 2,
    "runs nosuch --json": 0,
    "train nosuch": 1,
    "train --model nosuch": 1,
    "train --recipe nosuch": 1,
    "train --set lr=fast": 1,
    "train --set model.merge=nosuch": 1,
    "train --model resnet18 --set model.nosuch=1": 1,
    "train --resume": 1,
    "train --resume --output nosuch": 1,
    "eval nosuch": 1,
    "lr-find nosuch": 1,
    "lr-find --set lr=fast": 1,
    "analyze nosuch": 1,
    "analyze gradients nosuch": 1,
    "analyze gradients resnet20_cifar --html page.txt": 1,
    "predict nosuch a.jpg": 1,
    "predict . a.jpg": 1,
    "export nosuch --to onnx": 1,
    "serve nosuch": 1,
    "summary nosuch": 1,
    "bench nosuch": 1,
    "study nosuch": 1,
    "data check nosuch": 1,
}


def test_a_command_that_needs_no_torch_imports_nothing_slow(tmp_path: Path) -> None:
    lines = "\n".join(EXIT_CODES)
    run = subprocess.run(
        [sys.executable, "-c", CODE], input=lines, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answers = [line.split()[1:] for line in run.stdout.splitlines() if line.startswith("answered")]
    result = dict(zip(EXIT_CODES, answers, strict=True))
    assert result == {line: [str(code)] for line, code in EXIT_CODES.items()}, run.stderr


def test_help_does_not_import_the_zoo() -> None:
    """Which takes as long as all else: the help of a command answers as fast as `reslab models`."""
    commands = ("train", "eval", "predict", "export", "serve", "analyze", "lr-find", "data check", "runs", "study")
    lines = "\n".join(f"{command} --help" for command in commands)
    code = CODE.replace(repr(SLOW_MODULES), repr((*SLOW_MODULES, "reslab.spec.zoo")))
    run = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=True)
    answers = [line.split()[1:] for line in run.stdout.splitlines() if line.startswith("answered")]
    assert answers == [["0"]] * len(commands), dict(zip(commands, answers, strict=True))


PREDICT_CODE = """
import sys
from reslab.cli.app import main
code = main(sys.argv[1:])
slow = ("torchvision", "torch._dynamo", "scipy", "matplotlib", "sklearn", "pandas", "onnxruntime", "openvino")
print("answered", code, *[name for name in slow if name in sys.modules])
"""


def test_a_prediction_imports_torch_and_nothing_else_slow(tmp_path: Path) -> None:
    """Not the compiler either, which `torchvision` and draws on the meta device import."""
    network = create_model("resnet20_cifar", depths=(1, 1, 1))
    network.set_metadata(preprocess=Preprocess(3, "resize(32)", (0.5,) * 3, (0.5,) * 3))
    save_weights(tmp_path / "model.safetensors", network)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    command = [sys.executable, "-c", PREDICT_CODE, "predict", "model.safetensors", "a.jpg"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "answered 0", run.stdout + run.stderr


def test_the_names_of_datasets_are_those_of_the_registry() -> None:
    assert tuple(DATASETS) == DATASET_NAMES
