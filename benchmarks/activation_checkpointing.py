"""Memory of a training step with and without activation checkpointing.

`python benchmarks/activation_checkpointing.py [--depth 1202]`: each measurement is one step in its own process. The
figure is the peak of the resident memory above that before the step.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

from side_by_side import add_json_option, report
from tables import Column


def run_step(depth: int, batch_size: int, enabled: bool) -> None:
    """Run one step of a CIFAR network of 6n+2 layers and print loss, MiB and seconds."""
    import torch

    from reslab.nn.factory import create_model
    from reslab.training.loop import TrainStep, checkpoint_activations
    from reslab.training.losses import build_loss

    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=((depth - 2) // 6,) * 3).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(batch_size, 3, 32, 32), torch.arange(batch_size) % 10
    rss_before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with checkpoint_activations(model, enabled):
        metrics = TrainStep().run(model, build_loss("cross-entropy"), optimizer, x, y)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss_before) / 1024
    figures = {"loss": metrics["loss"].item(), "mebibytes": round(peak), "seconds": time.perf_counter() - start}
    print(json.dumps(figures))


def main() -> None:
    """Measure without and with activation checkpointing, and print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=362)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--mode", choices=("on", "off"), help=argparse.SUPPRESS)
    add_json_option(parser)
    args = parser.parse_args()
    if args.mode:
        run_step(args.depth, args.batch_size, args.mode == "on")
        return
    # glibc keeps freed blocks of a few MiB in its fragmented heap. With this threshold it returns them to the system,
    # so that the peak is the memory in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1"}
    rows: list[dict[str, object]] = []
    for mode in ("off", "on"):
        command = [sys.executable, __file__, "--depth", str(args.depth), "--batch-size", str(args.batch_size)]
        process = subprocess.run(
            [*command, "--mode", mode], env=environment, capture_output=True, text=True, check=True
        )
        rows.append({"name": mode, **json.loads(process.stdout)})
    rows.append({"name": "ratio", **{key: round(rows[1][key] / rows[0][key], 2) for key in ("mebibytes", "seconds")}})  # type: ignore[operator]
    columns = [
        Column("name", "activation checkpointing"),
        Column("loss", "loss", ".9g"),
        Column("mebibytes", "peak memory, MiB", ",.6g"),
        Column("seconds", "seconds", ".3g"),
    ]
    report(args.json, f"one step, {args.depth} layers, batch {args.batch_size}, one thread", columns, rows)


if __name__ == "__main__":
    main()
