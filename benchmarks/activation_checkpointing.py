"""Memory of a training step with and without units computed again.

`python benchmarks/activation_checkpointing.py [--depth 1202]`: each measurement is one step in a process of its own, the peak
of its resident memory above what it held before the step.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time


def step(depth: int, batch: int, on: bool) -> None:
    """One step of a CIFAR network of 6n+2 layers; prints loss, MiB and seconds."""
    import torch

    from reslab.nn.factory import create_model
    from reslab.training.activation_checkpointing import checkpoint_activations
    from reslab.training.loop import TrainStep
    from reslab.training.losses import build_loss

    torch.manual_seed(0)
    model = create_model("resnet20_cifar", depths=((depth - 2) // 6,) * 3).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with checkpoint_activations(model, on):
        loss, _ = TrainStep().run(model, build_loss("cross-entropy"), optimizer, x, y)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"loss {loss.item():.9g}, {peak:,.0f} MiB, {time.perf_counter() - start:.0f} s")


def main() -> None:
    """Both measurements, and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=362)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--one", choices=("on", "off"))
    arguments = parser.parse_args()
    if arguments.one:
        step(arguments.depth, arguments.batch, arguments.one == "on")
        return
    # glibc keeps freed blocks of a few MiB in its heap, in pieces; given back at once the peak is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1"}
    sizes = []
    for one in ("off", "on"):
        words = [sys.executable, __file__, "--depth", str(arguments.depth), "--batch", str(arguments.batch)]
        done = subprocess.run([*words, "--one", one], env=environment, capture_output=True, text=True, check=True)
        print(
            f"{arguments.depth} layers, batch {arguments.batch}, activation_checkpointing {one}: {done.stdout.strip()}"
        )
        found = re.search(r"([\d,]+) MiB", done.stdout)
        assert found is not None
        sizes.append(float(found[1].replace(",", "")))
    print(f"ratio {sizes[1] / sizes[0]:.2f}")


if __name__ == "__main__":
    main()
