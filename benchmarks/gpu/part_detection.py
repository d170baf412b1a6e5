"""Detection of blood cells (BCCD) with ResNet-18: the recipe detection-small, the study he2015/detection, and more.

AP on the test images, on which nothing is chosen; only the transform of the long training is, on validation images.
Several trainings share the GPU, so that their seconds say how long all take together, not one alone.
"""

import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detection_jobs import Group, Job, link_all_splits, list_jobs, make_run, make_small
from job_pool import JobPool, Outcome
from part_result import REQUIRED_DATA, PartArgs, PartResult, Status, mean_and_std, parse_part_args

NUM_PROCESSES = 5
COCO_PACKAGES = ("faster_coco_eval", "pycocotools")


class DetectionRun:
    """The trainings that wait, and the values of those that have ended."""

    def __init__(self, jobs: Sequence[Job], pool: JobPool, result: PartResult, small: bool) -> None:
        self.pending, self.pool, self.result, self.small = list(jobs), pool, result, small
        self.values: dict[Group, list[tuple[Job, dict[str, Any]]]] = {}
        self.failed: list[str] = []
        self.seconds_per_cost = 0.0

    def run(self) -> None:
        """Run all trainings that fit into the time."""
        while self.pending or self.pool.num_running:
            while self.pool.has_room and (job := self.next_job()) is not None:
                self.pool.start(job)
            if not self.pool.num_running:
                break
            for outcome in self.pool.wait(self.result.seconds_left):
                self.record(outcome)
            if self.result.seconds_left <= 0:
                break
        for words, jobs in (("stopped, as the time is over", self.pool.running), ("not started", self.pending)):
            if jobs:
                self.result.note(f"{words}: {', '.join(f'{job.group}, {job.name}, seed {job.seed}' for job in jobs)}")

    def next_job(self) -> Job | None:
        """Take the first training whose group to wait for has ended and that fits into the time; None if none does."""
        for job in self.pending:
            is_ready = job.after is None or not any(
                other.group is job.after for other in (*self.pending, *self.pool.running)
            )
            is_possible = job.after is not Group.BACKBONE or Group.BACKBONE in self.values
            if is_ready and is_possible and self.seconds_per_cost * job.cost <= self.result.seconds_left:
                self.pending.remove(job)
                return replace(job, transform=self.best_transform()) if job.after is Group.CHOICE else job
        return None

    def best_transform(self) -> str:
        """Return the transform with the highest AP50 on the validation images; empty, the recipe's, without any."""
        rows = self.values.get(Group.CHOICE, [])
        return max(rows, key=lambda row: row[1]["AP50"])[0].transform if rows else ""

    def record(self, outcome: Outcome) -> None:
        """Add the row of a training that has ended, or a note on why it failed."""
        job, values = outcome.job, outcome.value
        if outcome.error:
            self.failed.append(f"{job.group}, {job.name}, seed {job.seed}: {outcome.error}")
            self.result.note(f"failed: {self.failed[-1]}")
            return
        self.values.setdefault(job.group, []).append((job, values))
        if job.group is Group.BACKBONE:
            text = f"{job.group}, {job.epochs:g} epochs of {values['training images']:,} images: accuracy "
            self.result.note(f"{text}{values['accuracy']:.4f}, {values['train s']:.0f} s on {values['device']}")
            return
        if not self.small:
            self.seconds_per_cost = max(self.seconds_per_cost, values["s"] / job.cost)
        settings = {"network": job.name, "seed": job.seed, "epochs": job.epochs, "transform": job.transform or "flip"}
        at_a_time = {"trainings at a time": self.pool.num_running + 1}
        self.result.add(job.group, **settings, **values, **at_a_time)
        self.result.set_line(self.describe())

    def describe(self) -> str:
        """Return the mean AP50 and AP of every group on test images, of the study that of every row."""
        texts = []
        for group, rows in self.values.items():
            if group in (Group.CHOICE, Group.BACKBONE):
                continue
            for name in dict.fromkeys(job.name for job, _ in rows):
                of_name = [values for job, values in rows if job.name == name]
                title = f"{group.name.lower().replace('_', '-')} {name}"
                ap50 = mean_and_std([values["AP50"] for values in of_name])
                ap = statistics.mean(values["AP"] for values in of_name)
                texts.append(f"{title}: AP50 {ap50}, AP {ap:.3f}, {len(of_name)} seeds")
        return "; ".join(texts)


def main(args: PartArgs) -> int:
    """Run the trainings; what has been measured is kept whatever happens."""
    result = PartResult(args.result, args.seconds)
    if args.bccd is None and not args.small:
        result.set_line(REQUIRED_DATA["bccd"])
        result.finish(Status.SKIPPED)
        return 0
    if not any(importlib.util.find_spec(name) for name in COCO_PACKAGES):
        result.set_line(f"no package for COCO's AP: WHEELS=FOLDER with a wheel of {' or '.join(COCO_PACKAGES)}")
        result.finish(Status.SKIPPED)
        return 0
    num_processes = NUM_PROCESSES if torch.cuda.is_available() and not args.small else 1
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        source = args.bccd if args.bccd is not None else make_small(folder / "bccd")
        link_all_splits(source, folder)
        has_cifar10 = args.data is not None
        if not has_cifar10:
            result.note("no CIFAR-10 (--data FOLDER): no backbone is trained on it")
        pool = JobPool(make_run, (args.data, folder, args.small), num_processes)
        run = DetectionRun(list_jobs(has_cifar10=has_cifar10, small=args.small), pool, result, args.small)
        try:
            run.run()
        finally:
            pool.close()
    result.finish(Status.FAILED if run.failed else Status.DONE)
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_part_args(__doc__)))
