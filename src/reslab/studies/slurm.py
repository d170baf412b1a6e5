"""A study handed to SLURM: an array script, one task a training."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from reslab.studies.cost import PROCESS_BYTES, memory_bytes
from reslab.studies.plan import Job

_TIMES_THE_PRICE = 2.0


def slurm_script(
    name: str, jobs: Sequence[Job], command: Sequence[str], logs: Path, folder: Path, longest_seconds: float
) -> str:
    """The script for `sbatch`: an array of the jobs' numbers, each of which does `command --task NUMBER` in `folder`.

    `longest_seconds` is the price of the longest of them; twice that is asked for, and twice the memory of the largest.
    """
    words = shlex.join(command)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=reslab-{name.replace('/', '-')}",
        f"#SBATCH --array={ranges([job.number for job in jobs])}",
        f"#SBATCH --output={logs.resolve()}/slurm-%A_%a.txt",
        f"#SBATCH --time={_minutes(longest_seconds)}",
        f"#SBATCH --mem={_megabytes(jobs)}M",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --requeue",
        "##SBATCH --gres=gpu:1   (one # less asks for a GPU)",
        f"# {len(jobs)} trainings of {name}, {jobs[0].row.scale} scale.",
        "# One that was stopped goes on where it was when it is sent again.",
        "# When all have ended, the same command without --task writes the page:",
        f"#   {words}",
        "set -euo pipefail",
        f"cd {shlex.quote(str(folder.resolve()))}",
        f'exec {words} --task "${{SLURM_ARRAY_TASK_ID:?sbatch sets it}}"',
    ]
    return "\n".join(lines) + "\n"


def ranges(numbers: Sequence[int]) -> str:
    """`0-3,7,9-10`, as --array takes it."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _megabytes(jobs: Sequence[Job]) -> int:
    return -(-round(2 * (PROCESS_BYTES + max(memory_bytes(job.row) for job in jobs))) // 1_000_000)


def _minutes(longest_seconds: float) -> str:
    whole = max(10, round(longest_seconds * _TIMES_THE_PRICE / 60) + 10)
    return f"{whole // 60}:{whole % 60:02d}:00"
