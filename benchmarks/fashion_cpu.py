"""Time to accuracy: `reslab train --recipe fast-cpu --data fashion-mnist`, for several seeds.

    python benchmarks/fashion_cpu.py --data-dir /usr/share/datasets/fashion-mnist --seeds 5

The target: a mean test accuracy of at least 0.895 over five seeds in at most 30 s of training on two cores.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from side_by_side import machine_info

from reslab.training.train import train


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    overrides = dict(override.split("=", 1) for override in args.set)
    accuracies, seconds = [], []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                data="fashion-mnist", recipe="fast-cpu", seed=seed, data_dir=args.data_dir, overrides=overrides,
                output=Path(folder) / "run", on_log=lambda record: None,
            )  # fmt: skip
        assert run.result is not None
        accuracies.append(run.result["top1"])
        seconds.append(run.result["train_seconds"])
        print(f"seed {seed}: accuracy {accuracies[-1]:.4f}, {seconds[-1]:.1f} s of training", flush=True)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    print(f"mean {statistics.mean(accuracies):.4f}, standard deviation {spread:.4f} over {len(accuracies)} seeds")
    print(f"training {min(seconds):.1f} to {max(seconds):.1f} s, mean {statistics.mean(seconds):.1f} s")
    print(", ".join(f"{name} {value}" for name, value in machine_info().items()))


if __name__ == "__main__":
    main()
