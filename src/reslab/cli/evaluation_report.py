"""The output of `reslab eval`: rows for the terminal, JSON, and the files of predictions and of the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslab.cli.options import JsonFlag, Panel, html_option
from reslab.cli.output import print_result, print_table, write_page
from reslab.report.format import format_int, format_number, format_percent, main_metric_text
from reslab.report.format import metric_rows as task_metric_rows
from reslab.runtime.torchrun import read_distributed_env
from reslab.spec.task import TargetKind

if TYPE_CHECKING:
    from reslab.training.evaluation.evaluation import Evaluation


PredictionsFile = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        rich_help_panel=Panel.OUTPUT,
        help="Write all predictions to a .csv or .npz file, masks into a folder beside it; detections also to a .json.",
    ),
]
PerClassFlag = Annotated[
    bool,
    typer.Option("--per-class", help="Report precision, recall and F1 of each class, and the confusion matrix."),
]
CalibrationFlag = Annotated[
    bool,
    typer.Option("--calibration", help="Report calibration error and the temperature fitted on the validation split."),
]
SaveTemperatureFlag = Annotated[
    bool,
    typer.Option(
        "--save-temperature",
        help="Fit the temperature on the validation split and, if cross-validation finds it better than none, "
        "save it with the weights, for `predict`.",
    ),
]
HtmlFile = Annotated[
    Path | None,
    html_option("Write an HTML report with the images of the top losses."),
]


@dataclass(frozen=True)
class EvaluationReport:
    """The output of the command: the files that it writes, and the options of what it prints."""

    predictions: PredictionsFile = None
    per_class: PerClassFlag = False
    calibration: CalibrationFlag = False
    save_temperature: SaveTemperatureFlag = False
    html_path: HtmlFile = None
    as_json: JsonFlag = False

    @property
    def needs_calibration(self) -> bool:
        """True if the validation split is evaluated too."""
        return self.calibration or self.save_temperature or self.html_path is not None

    @property
    def keeps_predictions(self) -> bool:
        """True if the probabilities of all samples are needed."""
        return self.predictions is not None or self.needs_calibration

    def by_flag(self) -> dict[str, Any]:
        """Return the options that need a network, by flag."""
        return {"--calibration": self.calibration, "--save-temperature": self.save_temperature}

    def check(self) -> None:
        """Raise ValueError for a file of predictions that cannot be written."""
        if self.predictions is not None:
            from reslab.training.evaluation.prediction_files import check_predictions_path

            check_predictions_path(self.predictions)

    def show(self, evaluation: "Evaluation", val_evaluation: "Evaluation | None", names: Sequence[str]) -> None:
        """Write the files, on the first rank, and print the result; `names` are of the models."""
        calibration: dict[str, Any] = {}
        if self.calibration or self.save_temperature:
            calibration = _calibration_payload(evaluation, val_evaluation)
        if read_distributed_env().is_main:
            self._write_files(evaluation, val_evaluation, names)
        payload = {**metrics_payload(evaluation), **ensemble_payload(evaluation, names), **calibration}
        if self.per_class:
            payload |= evaluation.per_class()
        rows = [*ensemble_rows(evaluation, names), *metric_rows(evaluation), *calibration_rows(calibration)]
        print_result(payload, rows, as_json=self.as_json)
        if self.per_class and not self.as_json:
            print_table(*evaluation.per_class_table())

    def _write_files(self, evaluation: "Evaluation", val_evaluation: "Evaluation | None", names: Sequence[str]) -> None:
        from reslab.training.evaluation.prediction_files import save_predictions
        from reslab.training.run_report import build_evaluation_page
        from reslab.training.tasks.registry import find_task_type

        if self.predictions is not None:
            save_predictions(self.predictions, evaluation)
        if self.html_path is not None:
            title = f"{' and '.join(names)} on {evaluation.split}"
            metadata = {"evaluated": " and ".join(names), **dict(ensemble_rows(evaluation, names))}
            metadata |= {"split": evaluation.split, "precision": "float32"}
            results = find_task_type(evaluation.spec.name).results(evaluation, val_evaluation)
            write_page(self.html_path, build_evaluation_page(title, evaluation, results, metadata))


def metric_rows(evaluation: "Evaluation") -> list[tuple[str, str]]:
    """Return the rows of the split and the metrics."""
    return [("split", evaluation.split), *task_metric_rows(evaluation.spec, evaluation.to_dict())]


def metrics_payload(evaluation: "Evaluation") -> dict[str, Any]:
    """Return the task, `metrics` by name, and beside them the same values and the counts of samples."""
    return {"task": evaluation.spec.name, "metrics": evaluation.metrics, **evaluation.to_dict()}


def ensemble_payload(evaluation: "Evaluation", names: Sequence[str]) -> dict[str, Any]:
    """Return `ensemble`: how the predictions are combined, and the metrics of each member by itself; {} for one run."""
    members = [
        {"run": name, **member.to_dict()}
        for name, member in zip(names, evaluation.members, strict=bool(evaluation.members))
    ]
    return {"ensemble": {"combination": _combination(evaluation), "members": members}} if members else {}


def ensemble_rows(evaluation: "Evaluation", names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the rows that say what an ensemble is and what each member reaches by itself; none for one run."""
    if not evaluation.members:
        return []
    member_rows = [
        (f"member {number}", f"{main_metric_text(member.spec, member.to_dict())}: {name}")
        for number, (name, member) in enumerate(zip(names, evaluation.members, strict=True), 1)
    ]
    return [("ensemble", f"{_combination(evaluation)} of {len(names)} runs"), *member_rows]


def _combination(evaluation: "Evaluation") -> str:
    return "mean values" if evaluation.spec.target is TargetKind.VALUES else "mean probabilities"


def calibration_rows(calibration: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the calibration error before and after temperature scaling; none without `calibration`."""
    if not calibration:
        return []
    rows = [("calibration error", format_percent(calibration["ece"]))]
    if "temperature" not in calibration:
        reason = "none: fitting needs a validation split with a misclassified image (--val-fraction)"
        return [*rows, ("temperature", reason)]
    images_text = f"{format_int(calibration['fit_num_samples'])} images ({calibration['fit_split']})"
    rows.append(("temperature", f"{format_number(calibration['temperature'])}, fitted on {images_text}"))
    if "ece_after" in calibration:
        cross_fit_text = " (cross-fitted on halves)" if calibration["cross_fitted"] else ""
        error_text = f"calibration error {format_percent(calibration['ece_after'])}"
        after_text = f"{error_text}, loss {format_number(calibration['loss_after'])}"
        rows.append(("calibrated", after_text + cross_fit_text))
    return rows


def _calibration_payload(evaluation: "Evaluation", val_evaluation: "Evaluation | None") -> dict[str, Any]:
    from reslab.training.tasks.classification import calibration_metrics, require_classification

    val = None if val_evaluation is None else require_classification(val_evaluation, "--calibration")
    return calibration_metrics(require_classification(evaluation, "--calibration"), val)
