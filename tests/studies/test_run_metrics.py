"""The metrics of a training: from its log by hand, and by other evaluations."""

import math
from dataclasses import replace

import pytest
import torch

from reslab.data.loader import eval_loader
from reslab.spec.study import AnalysisRequest, Claim, RowSpec, Study, get_metric
from reslab.studies.job import evaluate_ensembles, run_job
from reslab.studies.plan import JobContext, make_study_plan, missing_jobs
from reslab.studies.run_metrics import (
    last_epoch_metrics,
    last_step_model,
    measure_run,
    result_value,
    steps_to_error,
)
from reslab.studies.run_study import build_study_page
from reslab.studies.runner import run_jobs
from reslab.training.checkpoint import load_train_checkpoint
from reslab.training.evaluation.evaluate import evaluate
from reslab.training.run_data import reopen_data
from reslab.training.train import train

from .conftest import StudyFactory

CPU = torch.device("cpu")


def record(step: int, loss: float, top1: float) -> dict[str, object]:
    return {"kind": "train", "step": step, "loss": loss, "top1": top1}


LOG = [
    record(50, 2.0, 0.1),
    record(78, 1.5, 0.3),
    {"kind": "eval", "step": 78, "loss": 9.0, "top1": 0.0},
    record(100, 1.0, 0.5),
    record(150, 0.5, 0.75),
    record(156, 0.2, 1.0),
]


def test_the_last_epoch_is_weighted_by_steps() -> None:
    loss, error = last_epoch_metrics(LOG, 78).values()
    assert loss == pytest.approx((22 * 1.0 + 50 * 0.5 + 6 * 0.2) / 78)
    assert error == pytest.approx(100 * (1 - (22 * 0.5 + 50 * 0.75 + 6 * 1.0) / 78))


def test_a_last_epoch_that_starts_within_a_record_or_before_the_log() -> None:
    assert last_epoch_metrics(LOG, 60)["train_loss"] == pytest.approx((4 * 1.0 + 50 * 0.5 + 6 * 0.2) / 60)
    assert last_epoch_metrics(LOG, 1000)["train_loss"] == pytest.approx(
        (50 * 2 + 28 * 1.5 + 22 * 1.0 + 50 * 0.5 + 6 * 0.2) / 156
    )
    with pytest.raises(ValueError, match="no training records"):
        last_epoch_metrics([], 10)


def test_steps_to_an_error() -> None:
    assert steps_to_error(LOG, 50) == 100
    assert steps_to_error(LOG, 90) == 50
    assert steps_to_error(LOG[:4], 20) == math.inf


def test_the_metrics_are_those_of_evaluate(study: Study, context: JobContext) -> None:
    job = make_study_plan(study, "smoke", seeds=1).jobs[1]
    entry = run_job(replace(job, metrics=frozenset({"gap", "test_error_batch"})), context)
    run = entry.run
    assert run is not None
    assert entry.values["test_error"] == pytest.approx(100 * (1 - evaluate(run).top1))
    assert entry.values["train_error_eval"] == pytest.approx(100 * (1 - evaluate(run, split="train").top1))
    assert "train_error_batch" not in entry.values
    more = run_job(replace(job, metrics=frozenset({"train_error_batch"})), context)
    assert more.values.keys() > entry.values.keys() - {"train_error_batch"}


def test_metrics_by_batch_use_the_statistics_of_each_batch(study: Study, context: JobContext) -> None:
    job = make_study_plan(study, "smoke", seeds=1).jobs[1]
    run = run_job(job, context).run
    assert run is not None
    result = measure_run(run, {"test_error_batch"}, CPU)["test_error_batch"]
    network = last_step_model(run)
    data = reopen_data(run.metadata["data"])
    x, labels, _ = next(iter(eval_loader(data.split("test"), 359, data.preprocess, CPU)))
    called = torch.cat([network.train()(batch).argmax(1) for batch in x.split(16)])
    assert result == pytest.approx(100 * (called != labels).float().mean().item(), abs=1e-4)
    assert result != pytest.approx(100 * (1 - evaluate(run).top1), abs=1e-4)


def test_the_last_step_is_reported_where_the_run_selects_the_best(context: JobContext) -> None:
    settings = {"model.depths": "1,1,1", "model.widths": "2,2,2", "model.stem": "conv3(2) norm act"}
    path = context.store.path / "run"
    run = train("resnet20_cifar", "digits", "digits", overrides=settings, epochs=3, val_fraction=0.2, output=path)
    state = load_train_checkpoint(path / "checkpoint")
    assert state is not None
    model = last_step_model(run)
    assert all(torch.equal(tensor, state.model[name]) for name, tensor in model.state_dict().items())
    result = measure_run(run, (), CPU)
    evaluation = evaluate(model, "digits", split="test")
    assert result["test_error"] == pytest.approx(100 * (1 - evaluation.top1))


def test_an_analysis_runs_on_every_network(make_study: StudyFactory, context: JobContext) -> None:
    study = make_study(analyses=(AnalysisRequest("gradients", weights="init", num_images=8),))
    rows = (replace(study.rows[0], recipe=""), study.rows[1])
    study = replace(study, rows=rows, claims=())
    plan = make_study_plan(study, "smoke", seeds=1)
    assert not run_jobs(plan.jobs, run_job, context).failed
    page = build_study_page(plan, context.store, lambda _: 0.0, {})
    for row in page.rows:
        assert row.runs[0].analysis_results["gradients@init"]
    assert page.rows[0].runs[0].log == []
    assert page.rows[1].mean() is not None


def test_test_time_augmentation_adds_to_the_single_view(make_study: StudyFactory, context: JobContext) -> None:
    single, flipped = make_study(), make_study(tta="flip")
    first = make_study_plan(single, "smoke", seeds=1, rows=["residual"])
    both = make_study_plan(flipped, "smoke", seeds=1, rows=["residual"])
    assert first.jobs[0].key == both.jobs[0].key
    run_job(first.jobs[0], context)
    assert missing_jobs(both, context.store) == list(both.jobs)
    run = run_job(both.jobs[0], context).run
    assert run is not None
    pages = [build_study_page(plan, context.store, lambda _: 0.0, {}) for plan in (first, both)]
    assert pages[0].rows[0].values() == [pytest.approx(100 * (1 - evaluate(run).top1))]
    assert pages[1].rows[0].values() == [pytest.approx(100 * (1 - evaluate(run, tta="flip").top1))]


def test_an_ensemble_is_evaluated_by_the_mean_of_its_members(study: Study, context: JobContext) -> None:
    together = RowSpec("both", members=("plain", "residual"))
    study = replace(study, rows=(*study.rows, together), claims=(Claim("x", "both", "<", "plain"),))
    plan = make_study_plan(study, "smoke", seeds=2)
    run_jobs(plan.jobs[:3], run_job, context)
    evaluate_ensembles(plan, context)
    page = build_study_page(plan, context.store, lambda _: 0.0, {})
    runs = [str(context.store.entry(job.key).run_path) for job in plan.jobs[:2]]
    assert page.rows[2].values() == [pytest.approx(100 * (1 - evaluate(runs).top1))]
    evaluate_ensembles(make_study_plan(study, "smoke", seeds=2, rows=["both"]), context)
    alone = build_study_page(make_study_plan(study, "smoke", seeds=2, rows=["both"]), context.store, lambda _: 0.0, {})
    assert alone.rows[0].values() == []
    assert alone.rows[0].not_run_reason == "some of its members were not run"


def test_a_path_into_a_result() -> None:
    results = {"lesion": {"mean_increase": 3.5, "deletions": [{"error": 7.0}], "name": "x", "ok": True}}
    assert result_value("lesion.mean_increase", results) == 3.5
    assert result_value("lesion.deletions.0.error", results) == 7.0
    assert result_value("lesion.deletions.1.error", results) is None
    assert result_value("lesion.name", results) is None
    assert result_value("lesion.ok", results) is None
    assert result_value("gradients.top", results) is None
    assert result_value("gradients.top", {"gradients@init": {"top": 1}}) == 1.0


def test_the_report_mentions_diverged_seeds_and_steps_never_reached(
    make_study: StudyFactory, context: JobContext
) -> None:
    study = make_study(overrides=(*make_study().presets.smoke.overrides, "optimizer.lr=1e30"))
    claim = Claim("plain is slower", "plain", ">", "residual", metric="steps_to_train_error")
    study = replace(study, claims=(claim,))
    plan = make_study_plan(study, "smoke", seeds=1)
    run_jobs(plan.jobs, run_job, context)
    page = build_study_page(plan, context.store, lambda _: 0.0, {})
    assert page.rows[0].mean() == 90.0
    assert "infinite or NaN in 1 of 1 seed," in page.rows[0].not_run_reason
    assert page.rows[0].runs[0].values["steps_to_train_error"] == math.inf
    assert page.claims[0].explanation == "no value for plain, residual"
    assert page.claims[0].verdict == "undecided"


def test_the_cost_counts_what_was_trained_before_a_stop(study: Study, context: JobContext) -> None:
    plan = make_study_plan(study, "smoke", seeds=1, rows=["plain"])
    entry = run_job(plan.jobs[0], context)
    assert entry.metadata is not None
    entry.write(replace(entry.metadata, seconds=2.0, values={**entry.values, "train_seconds": 100.0}))
    assert build_study_page(plan, context.store, lambda _: 0.0, {}).metadata["cost"] == "1 min 40 s for 1 network"


def test_an_explanation_has_units_and_names_what_was_measured(make_study: StudyFactory, context: JobContext) -> None:
    study = make_study(analyses=(AnalysisRequest("gradients", weights="init", num_images=8),))
    claims = (
        Claim("x", "plain", ">", "residual", "test_error"),
        Claim("y", "plain", ">", "residual", "gradients.slope.decades"),
    )
    claims = (*claims, Claim("z", "plain", ">", "residual", "steps_to_train_error"))
    plan = make_study_plan(replace(study, claims=claims), "smoke", seeds=1)
    run_jobs(plan.jobs, run_job, context)
    error, slope, steps = build_study_page(plan, context.store, lambda _: 0.0, {}).claims
    assert " points, " in error.explanation
    assert slope.explanation.endswith(f"measured: {get_metric('gradients.slope.decades').description}")
    assert "difference 0 steps, " in steps.explanation
    assert steps.explanation.endswith("steps to a training error of 20 %, or all steps if it was not reached")


RESULTS = {
    "lesion": {
        "error": 0.25,
        "deletions": [{"error": 0.3}, {"error": None}, {"error": 0.9}, {"error": 0.5}],
        "paths": [],
        "permutations": [{"num_swaps": 1, "error": 0.4}, {"num_swaps": 2, "error": 0.6}],
    },
    "gradients@init": {"slope": {"decades": 2.5, "verdict": "exploding"}},
    "landscape": {"largest": [7.0, 5.0]},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lesion.error", 0.25),
        ("lesion.deletions.error.median", 0.5),
        ("lesion.deletions.error.mean", pytest.approx(1.7 / 3)),
        ("lesion.deletions.error.max", 0.9),
        ("lesion.deletions.error.peak", 2),
        ("lesion.deletions.2.error", 0.9),
        ("lesion.permutations.error.mean", 0.5),
        ("landscape.largest.0", 7.0),
        ("landscape.largest.min", 5.0),
        ("gradients.slope.decades", 2.5),
        ("gradients.slope.verdict", None),
        ("lesion.deletions.error", None),
        ("lesion.paths.fraction.mean", None),
        ("lesion.paths.fraction.peak", None),
        ("landscape.largest.9", None),
        ("lesion.nothing.mean", None),
        ("probes.accuracy", None),
    ],
)
def test_a_path_leads_to_one_number_or_none(name: str, value: float | None) -> None:
    assert result_value(name, RESULTS) == value
