"""`reslab predict`: predict classes, values, masks or boxes of images with a trained network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from reslab.cli.option_groups import ModelOptions
from reslab.cli.options import (
    Device,
    ImageSize,
    InferenceBackend,
    InferencePrecision,
    JsonFlag,
    MaxPixels,
    Panel,
    output_option,
)
from reslab.spec.errors import invalid


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """What is predicted of each image and written beside it, by the names of `PredictOptions`."""

    top_k: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--top-k",
            metavar="INTEGER",
            min=1,
            help="Number of classes per image (default 5; in multi-label tasks the classes above their thresholds), "
            "or of boxes.",
        ),
    ] = None
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            metavar="FLOAT",
            help="Leave out boxes with a lower score (default: 0.5 in the table and in images, none in files).",
        ),
    ] = None
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Add the embedding, the input of the last linear layer.")
    ] = False
    use_temperature: Annotated[
        bool,
        typer.Option(
            "--temperature/--no-temperature",
            help="Divide the logits by the temperature saved with the weights, if any.",
        ),
    ] = True
    grad_cam_dir: Annotated[
        Path | None,
        typer.Option(
            "--grad-cam",
            metavar="DIR",
            rich_help_panel=Panel.OUTPUT,
            help="Write a Grad-CAM heatmap of the top class, or of the best box, of each image.",
        ),
    ] = None
    grad_cam_class: Annotated[
        str,
        typer.Option(
            "--grad-cam-class",
            metavar="NAME",
            rich_help_panel=Panel.OUTPUT,
            help="Write heatmaps of this class or target instead.",
        ),
    ] = ""
    masks_dir: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            rich_help_panel=Panel.OUTPUT,
            help="Write the mask of each image, NAME.png, and its overlay (segmentation).",
        ),
    ] = None
    boxes_dir: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="DIR",
            rich_help_panel=Panel.OUTPUT,
            help="Write each image with its boxes, NAME_boxes.png (detection).",
        ),
    ] = None

    def check(self) -> None:
        """Raise ValueError for a class of heatmaps without a folder for them."""
        if self.grad_cam_class and self.grad_cam_dir is None:
            raise invalid("--grad-cam DIR with --grad-cam-class", "--grad-cam-class alone", next_step="name the folder")


@dataclass(frozen=True, kw_only=True)
class PredictionOutput:
    """Where the predictions go: a file, or the terminal as a table, CSV or JSON."""

    output: Annotated[
        Path | None,
        output_option(
            "FILE",
            "Write the predictions to a .json, .csv or .parquet file; boxes also as COCO's results (.coco.json) "
            "or a folder of VOC's (.voc).",
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", rich_help_panel=Panel.OUTPUT, help="Resume --output: images already in it are not repeated."
        ),
    ] = False
    as_csv: Annotated[
        bool, typer.Option("--csv", rich_help_panel=Panel.OUTPUT, help="Print CSV, one line per class.")
    ] = False
    as_json: JsonFlag = False

    def check(self) -> None:
        """Raise ValueError for options that do not go together."""
        if self.as_json and self.as_csv:
            raise invalid("one of --json and --csv", "both", next_step="leave one of them out")
        if self.resume and self.output is None:
            raise invalid("--output FILE with --resume", "--resume alone", next_step="name the file to resume")


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How the network is computed, by the names of `PredictOptions`."""

    backend: InferenceBackend = "auto"
    precision: InferencePrecision = "float32"
    compiled: Annotated[
        bool,
        typer.Option("--compile", rich_help_panel=Panel.COMPUTE, help="Compile the network (backend torch)."),
    ] = False
    batch_size: Annotated[
        int,
        typer.Option("-b", "--batch-size", metavar="INTEGER", min=1, rich_help_panel=Panel.COMPUTE, help="Batch size."),
    ] = 64
    device: Device = "auto"


def predict(
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL IMAGE|FOLDER",
            help="A run, weights file, exported graph or name (left out with --model), then images, folders, patterns, "
            ".tar shards or a .csv file of paths; - reads standard input: paths, or one image.",
        ),
    ],
    model: ModelOptions,
    output: PredictionOutput,
    prediction: PredictionOptions,
    inference: InferenceOptions,
    image_size: ImageSize = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Predict the classes, values, masks or boxes of images, by the task of the network.

    Unreadable files get an error row; exit code 1 if no file could be read.
    """
    output.check()
    prediction.check()
    choice, images = model.choose(inputs)
    if not images:
        raise invalid("a model and at least one image", str(choice), next_step="reslab predict MODEL IMAGE")
    from reslab.cli.predictions import predict_images

    options = {**vars(prediction), **vars(inference)}
    predict_images(choice, images, options, image_size=image_size, max_pixels=max_pixels, **vars(output))
