"""Pages of studies to test with: made-up numbers that look like those of real runs."""

import math

import numpy as np

from reslab.report.pages.study_results import ClaimResult, StudyPage, StudyRow, StudyRun
from reslab.spec.papers import get_study
from reslab.spec.study import RowSpec, Study

ENDS = {
    "plain-20": (36.0, 38.1), "plain-32": (39.5, 40.9), "plain-44": (46.8, 47.4), "plain-56": (58.9, 58.2),
    "residual-20": (29.5, 33.0), "residual-32": (28.1, 32.4), "residual-44": (27.5, 32.1), "residual-56": (27.0, 31.9),
}  # fmt: skip


def sample_curve_log(train: float, test: float, steps: int = 600, seed: int = 0) -> list[dict[str, object]]:
    """Errors that fall from 90 % to the given ones, the training's noisy, a drop where the rate falls."""
    random = np.random.default_rng(seed)
    lines: list[dict[str, object]] = []
    for step in range(10, steps + 1, 10):
        clock = step / steps
        left = math.exp(-5 * clock) + (0.12 if clock < 0.5 else 0.04 if clock < 0.75 else 0.0)
        error = train + (90 - train) * left + random.normal(0, 0.9)
        lines.append({"kind": "train", "step": step, "loss": 0.025 * error, "top1": 1 - error / 100, "lr": 0.1})
        if step % 50 == 0:
            error = test + (90 - test) * left + random.normal(0, 1.5) * (clock < 0.5)
            lines.append({"kind": "eval", "step": step, "split": "test", "loss": 0.03 * error, "top1": 1 - error / 100})
    return lines


def sample_run_of(row: RowSpec, seed: int, train: float, test: float, steps: int = 600) -> StudyRun:
    """One seed of a row, a little off."""
    shift = np.random.default_rng([seed, len(row.name), *map(ord, row.name)]).normal(0, 0.5)
    values = {"test_error": test + shift, "train_error": train + shift, "steps_to_train_error": 300 + 40 * shift}
    if row.metric not in values:
        values[row.metric] = test + shift
    values |= {reported.metric: test + shift for reported in row.more_reported if reported.metric not in values}
    return StudyRun(seed, values, sample_curve_log(train + shift, test + shift, steps, seed), train_seconds=71.0)


def sample_study_page(name: str = "he2015/degradation", scale: str = "short", seeds: int = 3) -> StudyPage:
    """A page of a study whose rows were all run but the last."""
    study: Study = get_study(name)
    rows = []
    for index, row in enumerate(study.rows):
        train, test = ENDS.get(row.name, (20.0 + index, 25.0 + 0.8 * index))
        runs = [sample_run_of(row, seed, train, test) for seed in range(seeds)]
        last = index == len(study.rows) - 1 and index > 0
        missing = {"not_run_reason": "not run: no time left", "estimated_seconds": 3720.0}
        rows.append(
            StudyRow(row, study.preset_for(row, scale), () if last else runs, row.model, **(missing if last else {}))
        )
    verdicts = ("holds", "fails", "undecided")
    words = (
        "5 of 5 seeds; the difference is 20.1 points (95 % interval 18.8 to 21.4)",
        "0 of 3 seeds; the difference is -1.2 points (95 % interval -1.9 to -0.5)",
        "2 of 3 seeds; the difference is 0.4 points (95 % interval -0.7 to 1.5); about 11 seeds would decide",
    )
    claims = [
        ClaimResult(claim.text, verdicts[index % 3], words[index % 3]) for index, claim in enumerate(study.claims)
    ]
    facts = {
        "command": f"reslab study {name} --scale {scale} --data-dir data --seeds {seeds}",
        "hardware": "AMD EPYC, 2 cores",
        "versions": "reslab 0.1.0, torch 2.14.1, Python 3.11",
        "cost": "24 min 12 s of training, 21 runs",
    }
    return StudyPage(study, scale, rows, claims, facts, ("A damaged entry of plain-44 was created again.",))
