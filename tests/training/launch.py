"""Two processes on loopback, as torchrun starts them; each answers with its results."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
# Of a process that hangs; on a machine that is busy with other work one of these takes minutes.
PATIENCE_SECONDS = 400
SRC = HERE.parents[1] / "src"
# One rank: it runs a script for each line that it reads, and saves the script's `answer`.
RANK = """
import json, os, sys, torch
from pathlib import Path
from reslab.runtime.distributed import init_process_group
process_group = init_process_group(torch.device("cpu"))
for line in sys.stdin:
    script, answer = json.loads(line)
    names = {"__name__": "__main__", "os": os, "sys": sys, "torch": torch, "process_group": process_group}
    exec(compile(Path(script).read_text(), script, "exec"), names)
    torch.save(names["answer"], answer + ".part")
    os.replace(answer + ".part", answer)
"""
_waiting_ranks: list["subprocess.Popen[str]"] = []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    return {**kept, "PYTHONPATH": f"{SRC}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1", **more}


def on_ranks(code: str, folder: Path, num: int = 2, *, own_processes: bool = False) -> list[Any]:
    """Run `code` on every rank, with its `process_group`; return the `answer` of each.

    Two ranks wait for the next call, as starting them takes longer than most of what they run. With `own_processes`
    they are new and end with the code, as they have to where it breaks their connection.
    """
    script, answers = folder / "script.py", [folder / f"answer{rank}.pt" for rank in range(num)]
    script.write_text(code)
    own_processes = own_processes or num != 2
    if own_processes or not _waiting_ranks:
        processes = start_ranks(num)
    else:
        processes, _waiting_ranks[:] = list(_waiting_ranks), []
    keeps_waiting = False
    try:
        for process, answer in zip(processes, answers, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps([str(script), str(answer)]) + "\n")
            process.stdin.flush()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(answer.exists() for answer in answers):
            assert [process.poll() for process in processes if process.poll()] == []
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if own_processes:
            assert [end(process) for process in processes] == [0] * num
        else:
            keeps_waiting = True
            _waiting_ranks.extend(processes)
    finally:
        if not keeps_waiting:
            for process in processes:
                process.kill()
                end(process)
    return [torch.load(answer, weights_only=False) for answer in answers]


def start_ranks(num: int) -> list["subprocess.Popen[str]"]:
    port, processes = str(free_port()), []
    for rank in range(num):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", RANK]
        processes.append(subprocess.Popen(command, env=environment(**variables), stdin=subprocess.PIPE, text=True))
    return processes


def end(process: "subprocess.Popen[str]") -> int:
    """Let a rank end, as it has no further line to read; return its exit code."""
    assert process.stdin is not None
    process.stdin.close()
    return process.wait(PATIENCE_SECONDS)


@atexit.register
def end_waiting_ranks() -> None:
    for process in _waiting_ranks:
        process.kill()
        end(process)


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
