"""`/v1/models/NAME/samples`, `/run` and `/confusion`: a run's validation or test images, its log and its errors."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from PIL import Image
from torch import Tensor

from reslab.deploy.prediction import result_rules
from reslab.deploy.predictor import Predictor
from reslab.deploy.server.decoding import encode_png
from reslab.deploy.server.errors import HTTPError, http_error
from reslab.deploy.server.model_handle import LoadedModel, ModelHandle, reading_run
from reslab.deploy.server.samples import SampleEvaluation, SampleSet, SampleStore
from reslab.deploy.server.schemas import (
    OVERLOAD_ERRORS,
    READ_ERRORS,
    UNREADABLE_ERRORS,
    ClassMetricsSchema,
    ConfusionCellResponse,
    ModelPath,
    RunResponse,
    SamplePrediction,
    SamplesResponse,
)
from reslab.deploy.server.state import AppState
from reslab.spec.errors import invalid
from reslab.spec.optim import parse_duration
from reslab.training.run import Run
from reslab.training.tasks.classification import sample_losses

MAX_EVAL_IMAGES = 2000
_BATCH_SIZE = 32
_MAX_SIDE = 640
_PNG_RESPONSES = {**READ_ERRORS, 200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}}


def sample_routes(state: AppState, sample_store: SampleStore) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def _open_samples(name: str) -> tuple[SampleSet, Run]:
        handle = state.get_model(name)
        sample_set = sample_store.get(handle.name, handle.run)
        return sample_set, _require_run(handle)

    @router.get("/v1/models/{name}/samples", responses=READ_ERRORS)
    def list_samples(
        name: ModelPath, n: Annotated[int, Query(ge=1, le=500, description="Number of images.")] = 24
    ) -> SamplesResponse:
        """List validation or test images of a run in a fixed random order; 404 if its data cannot be opened."""
        sample_set, run = _open_samples(name)
        with reading_run(name, run.path):
            return SamplesResponse(
                split=sample_set.split, samples=[sample_set.describe(index) for index in sample_set.order[:n]]
            )

    @router.get("/v1/models/{name}/samples/{number}.png", response_class=Response, responses=_PNG_RESPONSES)
    def sample_image(name: ModelPath, number: Annotated[int, Path(description="The id of an image.")]) -> Response:
        """Return an image of the split as PNG, its longer side at most 640 pixels."""
        sample_set, run = _open_samples(name)
        if not 0 <= number < len(sample_set.images):
            raise http_error(404, f"an image from 0 to {len(sample_set.images) - 1}", number)
        with reading_run(name, run.path):
            png = encode_png(_downscale(sample_set.images.preview(number).cpu()))
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    return router


def _downscale(pixels: Tensor) -> Tensor:
    """Downscale an image to a longer side of at most _MAX_SIDE."""
    if max(pixels.shape[1:]) <= _MAX_SIDE:
        return pixels
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array)
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BICUBIC)
    resized = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1)
    return resized.permute(2, 0, 1)


class BackgroundEvaluator:
    """Evaluates each model once, on first request, in the analysis thread; other analyses run between its batches."""

    def __init__(self, state: AppState, sample_store: SampleStore) -> None:
        self.state, self.sample_store = state, sample_store
        self._tasks: dict[str, asyncio.Task[SampleEvaluation]] = {}

    def start_or_get(self, handle: ModelHandle) -> "asyncio.Task[SampleEvaluation]":
        """Return the evaluation task of a model, finished or running."""
        task = self._tasks.get(handle.name)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tasks[handle.name] = asyncio.create_task(self._evaluate(handle))
        return task

    async def stop(self) -> None:
        """Cancel running evaluations."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _evaluate(self, handle: ModelHandle) -> SampleEvaluation:
        loaded = await asyncio.to_thread(handle.load, wait=True)
        if loaded.checkpoint_step is not None:
            raise http_error(503, "readable final weights", f"{handle.name} without them", "try again later")
        if not result_rules(loaded.predictor.task).has_confusion:
            step = "open its report.html, or run `reslab eval`"
            raise http_error(
                422, "a run of classification for a confusion matrix", loaded.predictor.task.spec.name, step
            )
        sample_set = await asyncio.to_thread(self.sample_store.get, handle.name, handle.run)
        indices = sample_set.order[:MAX_EVAL_IMAGES]
        with reading_run(handle.name, handle.path):
            results = [
                await self.state.run_internal_analysis(
                    loaded, _evaluate_batch, loaded, sample_set, indices[start : start + _BATCH_SIZE]
                )
                for start in range(0, len(indices), _BATCH_SIZE)
            ]
        predicted, confidences, losses = (torch.cat([result[index] for result in results]) for index in range(3))
        return SampleEvaluation(
            sample_set,
            loaded.classes,
            indices,
            labels=sample_set.images.labels[list(indices)],
            predicted=predicted,
            confidences=confidences,
            losses=losses,
        )


def _evaluate_batch(
    loaded: LoadedModel, sample_set: SampleSet, indices: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the predicted class, its probability, and the loss of each image."""
    if loaded.layers is None:  # an exported graph
        assert isinstance(loaded.predictor, Predictor)  # the task has a confusion matrix
        probabilities = loaded.predictor.decode(loaded.predictor.backend(sample_set.load_batch(indices)))
    else:
        analysis_model = loaded.analysis_model
        x = sample_set.load_batch(indices).to(analysis_model.device)
        with analysis_model.exclusive() as network:
            probabilities = analysis_model.probabilities(network, x).cpu()
    confidences, predicted = probabilities.max(1)
    return predicted, confidences, sample_losses(probabilities, sample_set.images.labels[list(indices)])


# A larger confusion matrix is unreadable and a long response.
_MAX_MATRIX_CLASSES = 200
_WAIT_SECONDS = 1.0


def run_routes(state: AppState, evaluator: BackgroundEvaluator) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/v1/models/{name}/run", responses=READ_ERRORS | UNREADABLE_ERRORS)
    async def run(
        name: ModelPath, since: Annotated[int, Query(ge=0, description="Lines of the log to leave out.")] = 0
    ) -> RunResponse:
        """Return the log from record `since` on, and the evaluation of the network once it is finished."""
        handle = state.get_model(name)
        log = await asyncio.to_thread(_read_log, handle.name, _require_run(handle), since)
        evaluation = await _describe_evaluation(evaluator, handle)
        return RunResponse(**vars(log), **vars(evaluation))

    @router.get("/v1/models/{name}/confusion", responses=READ_ERRORS | OVERLOAD_ERRORS)
    async def confusion(
        name: ModelPath,
        true: Annotated[int, Query(ge=0, description="The true class, a row of the matrix.")],
        predicted: Annotated[int, Query(ge=0, description="The predicted class, a column of the matrix.")],
    ) -> ConfusionCellResponse:
        """List the images of one cell of the confusion matrix; classes are indices of its rows and columns."""
        handle = state.get_model(name)
        _require_run(handle)
        if not handle.is_finished:
            raise http_error(503, "a run that has ended", f"{name}, still in training", "try again later")
        if max(true, predicted) >= handle.arch.num_classes:
            raise http_error(422, f"classes from 0 to {handle.arch.num_classes - 1}", f"{true} and {predicted}")
        async with state.time_limit():
            evaluation = await asyncio.shield(evaluator.start_or_get(handle))
        return ConfusionCellResponse(samples=evaluation.confusion_cell(true, predicted))

    return router


def _require_run(handle: ModelHandle) -> Run:
    if handle.run is None:
        raise http_error(404, "a run with a log", f"{handle.name}, a weights file", "serve the run's folder")
    return handle.run


@dataclass(frozen=True)
class _RunLog:
    """The part of the response that is read from the run's folder."""

    log: list[dict[str, Any]]
    num_records: int
    classes: list[str]
    finished: bool
    step: int
    num_steps: int | None


def _read_log(name: str, run: Run, since: int) -> _RunLog:
    """Return the log so far; run.json is read again, because it records the end of the run. HTTPError (404, 503)."""
    with reading_run(name, run.path):
        run = Run(run.path)
        content = run.log.read()
        records = content.records
        if content.damage and not records:
            raise invalid("a readable log.jsonl", content.damage, next_step="resume or retrain it")
        step = max((int(record["step"]) for record in records if "step" in record), default=0)
        return _RunLog(
            log=records[since:],
            num_records=len(records),
            classes=list(run.classes),
            finished=run.result is not None,
            step=step,
            num_steps=_num_steps(run, records, step),
        )


def _num_steps(run: Run, records: list[dict[str, Any]], step: int) -> int | None:
    """Return the total number of steps, from the recipe or the epochs so far; None before the first record."""
    if run.result is not None:
        return int(run.result.get("steps", step))
    duration = parse_duration(run.recipe.duration)
    if duration.unit == "steps":
        return duration.num_steps(1)
    last_record = next((record for record in reversed(records) if record.get("epoch")), None)
    return None if last_record is None else duration.num_steps(round(last_record["step"] / last_record["epoch"]))


@dataclass(frozen=True)
class _EvaluationInfo:
    """The part of the response that is measured on the validation or test images; `reason` names what is missing."""

    evaluated: bool = False
    confusion_matrix: list[list[int]] | None = None
    misclassified: list[SamplePrediction] = field(default_factory=list)
    per_class: list[ClassMetricsSchema] = field(default_factory=list)
    num_images: int = 0
    reason: str = ""


async def _describe_evaluation(evaluator: BackgroundEvaluator, handle: ModelHandle) -> _EvaluationInfo:
    if not handle.is_finished:
        return _EvaluationInfo()
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            evaluation = await asyncio.shield(evaluator.start_or_get(handle))
    except TimeoutError:
        return _EvaluationInfo()  # still running; the client polls again
    except HTTPError as error:
        return _EvaluationInfo(evaluated=True, reason=error.message)
    return await asyncio.to_thread(_finished_evaluation, evaluation)


def _finished_evaluation(evaluation: SampleEvaluation) -> _EvaluationInfo:
    has_few_classes = len(evaluation.classes) <= _MAX_MATRIX_CLASSES
    return _EvaluationInfo(
        evaluated=True,
        confusion_matrix=evaluation.confusion_matrix() if has_few_classes else None,
        misclassified=evaluation.misclassified(),
        per_class=evaluation.per_class(),
        num_images=len(evaluation.indices),
        reason="" if has_few_classes else f"{len(evaluation.classes)} classes are too many for a matrix",
    )
