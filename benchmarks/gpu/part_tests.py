"""Run the functions of tests/gpu/checks.py on the GPU, one after another; no test framework is needed."""

import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch
from part_result import PartArgs, PartResult, Status, parse_part_args

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "gpu"))

from checks import CHECKS, NEEDS_CUDA, Check

SMALL = ("training", "resume", "augmentation", "process group")
TITLE = "tests"


def run_check(check: Check, device: torch.device) -> str:
    """Run a check in an empty folder; return how it failed, or an empty text."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(device, Path(folder))
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}".splitlines()[0][:300].replace("|", "/")
    return ""


def main(args: PartArgs) -> int:
    """Run the checks; those that the time does not allow are left out."""
    result = PartResult(args.result, args.seconds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    num_passed, failed, left_out = 0, [], []
    for name, check in CHECKS.items():
        if (args.small and name not in SMALL) or (name in NEEDS_CUDA and device.type != "cuda"):
            continue
        if result.seconds_left < 5:
            left_out.append(name)
            continue
        start = time.perf_counter()
        error = run_check(check, device)
        result.add(TITLE, test=name, passed=not error, s=round(time.perf_counter() - start, 1), error=error)
        num_passed, failed = num_passed + (not error), failed + ([name] if error else [])
        text = f"{num_passed} passed on {device.type}" + (f", failed: {', '.join(failed)}" if failed else "")
        result.set_line(text + (f", no time for: {', '.join(left_out)}" if left_out else ""))
    if left_out:
        result.note(f"no time for: {', '.join(left_out)}")
    result.finish(Status.FAILED if failed else Status.DONE)
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_part_args(__doc__)))
