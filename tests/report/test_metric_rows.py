"""Metrics as rows of text, with and without a loss."""

from reslab.report.metric_rows import main_metric_text, metric_rows
from reslab.spec.task import TASKS


def test_a_row_for_each_metric_that_is_defined_and_the_loss() -> None:
    task, values = TASKS["classification"], {"top1": 0.75, "loss": 0.5, "num_correct": 3, "num_samples": 4}
    assert metric_rows(task, values) == [("accuracy", "75.00 % (3 of 4 correct)"), ("loss", "0.5000")]
    assert main_metric_text(task, values) == "75.00 %, loss 0.5000"


def test_a_task_without_a_loss_in_evaluation_has_no_row_for_it() -> None:
    task = TASKS["detection"]
    for values in ({"ap": 0.415, "ap50": 0.62, "loss": None}, {"ap": 0.415, "ap50": 0.62}):
        assert metric_rows(task, values) == [("COCO AP", "41.50 %"), ("AP at IoU 0.5", "62.00 %")]
        assert main_metric_text(task, values) == "41.50 %"
