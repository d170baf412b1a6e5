"""Two processes on loopback, as torchrun starts them; each answers with its results."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
# Of a process that hangs; on a machine that is busy with other work one of these takes minutes.
PATIENCE_SECONDS = 400
SRC = HERE.parents[1] / "src"
PREAMBLE = (
    "import os, sys, torch\n"
    "from reslab.runtime.distributed import init_process_group\n"
    "from reslab.runtime.torchrun import read_distributed_env\n"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    return {**kept, "PYTHONPATH": f"{SRC}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1", **more}


def on_ranks(code: str, folder: Path, num: int = 2) -> list[Any]:
    """Run `code` on every rank, with its `process_group`; return the `answer` of each."""
    script = folder / "script.py"
    ending = f"\ntorch.save(answer, {str(folder)!r} + f'/answer{{process_group.rank}}.pt')\n"
    script.write_text(PREAMBLE + "process_group = init_process_group(torch.device('cpu'))\n" + code + ending)
    port, processes = str(free_port()), []
    for rank in range(num):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(subprocess.Popen([sys.executable, str(script)], env=environment(**variables)))
    try:
        assert [process.wait(PATIENCE_SECONDS) for process in processes] == [0] * num
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"answer{rank}.pt", weights_only=False) for rank in range(num)]


def torchrun(*words: str, restarts: int = 0, num: int = 2) -> subprocess.Popen[str]:
    """torchrun with `num` processes on this machine; `words` are the script or module and its arguments."""
    launch = [
        "torch.distributed.run",
        f"--nproc-per-node={num}",
        f"--max-restarts={restarts}",
        "--monitor-interval=0.1",
    ]
    options = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1"]
    command = [sys.executable, "-m", *launch, *options, *words]
    return subprocess.Popen(command, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code and what was written; killed where it hangs."""
    try:
        streams = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    return process.returncode, *streams
