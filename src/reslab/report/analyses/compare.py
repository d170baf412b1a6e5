"""Render `compare`: a paired test of two networks, their predictions and their weights."""

from collections.abc import Sequence

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable, Result
from reslab.report.format import format_int, format_metric, format_number, format_percent, format_split, pluralize
from reslab.report.images import decode_data_uri
from reslab.report.pages.compare import ComparedRun, run_curves
from reslab.report.plots.curves import plot_metric
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles
from reslab.report.plots.images import ImageRow, plot_image_grid
from reslab.spec.task import Metric, find_task

_IMAGES_PER_ROW = 7
_SIGNIFICANCE_LEVEL = 0.05


def render_comparison(results: Sequence[Result]) -> RenderedResult:
    """Render the paired test, the curves, the images on which they disagree, and the distances between the weights."""
    (result,) = results
    figures = [*_render_curves(result), _render_flips(result), _render_distances(result)]
    first, second = _network_names(result)
    return RenderedResult(
        f"{first} and {second}",
        tuple(
            paragraph
            for paragraph in (
                comparison_text(result),
                _p_value_paragraph(result),
                _agreement_text(result),
                _weights_text(result),
            )
            if paragraph
        ),
        tuple(figure for figure in figures if figure is not None),
        (
            _render_network_table(result),
            *([_render_contingency_table(result)] if result["paired_test"] else []),
            *([_render_layer_table(result)] if result["weight_distances"] else []),
        ),
    )


def _network_names(result: Result) -> tuple[str, str]:
    first, second = result["models"]
    return first["name"], second["name"]


def comparison_text(result: Result) -> str:
    """Return the scores of both; in a classification also the difference, and whether it is significant."""
    first, second = result["models"]
    test = result["paired_test"]
    images_text = pluralize(
        result["num_images"], f"{format_split(result['split'])} image" if result["split"] else "image"
    )
    accuracies = f"{_score_text(result, first)} and {_score_text(result, second)} on {images_text}"
    if test is None:
        title = _metric(result).title
        return f"{title[0].upper()}{title[1:]} of {first['name']} and {second['name']}: {accuracies}."
    if not test["only_first"] + test["only_second"]:
        return f"{first['name']} and {second['name']} are correct on the same images: {accuracies}."
    better, worse = (second, first) if test["difference"] > 0 else (first, second)
    if test["difference"] == 0:
        difference_text = f"{first['name']} and {second['name']} are equally accurate"
    else:
        difference_text = (
            f"{better['name']} is {100 * abs(test['difference']):.2f} points more accurate than {worse['name']}"
        )
    significance = "significant" if test["p_value"] < _SIGNIFICANCE_LEVEL else "not significant"
    p_value = _p_value_text(test["p_value"])
    return f"{difference_text} ({accuracies}), {significance} by McNemar's exact test: p = {p_value}."


def _metric(result: Result) -> Metric:
    return find_task(result["task"]).metric(result["metric"])


def _score_text(result: Result, network: Result) -> str:
    return format_metric(_metric(result), network["score"])


def _p_value_text(value: float) -> str:
    return "less than 0.0001" if value < 1e-4 else f"{value:.2g}"


def _p_value_paragraph(result: Result) -> str:
    """Explain the p-value and the interval of the difference."""
    first, second = _network_names(result)
    test = result["paired_test"]
    if test is None:
        return ""
    num_flips = test["only_first"] + test["only_second"]
    if not num_flips:
        return ""
    low, high = (100 * test[bound] for bound in ("ci_low", "ci_high"))
    return (
        f"They differ on {pluralize(num_flips, 'image')}: only {first} is correct on {format_int(test['only_first'])}, "
        f"only {second} on {format_int(test['only_second'])}. If both were equally accurate, a split at least "
        f"as uneven would occur with probability {_p_value_text(test['p_value'])}. The 95 % interval of {second} "
        f"minus {first} is {low:+.2f} to {high:+.2f} points. This is a test of these two sets of weights, "
        "not of other seeds."
    )


def _agreement_text(result: Result) -> str:
    if result["paired_test"] is None:
        return ""
    agreement = format_percent(result["paired_test"]["agreement"], 1)
    return f"They predict the same class, correct or not, for {agreement} of the images."


def _weights_text(result: Result) -> str:
    if not result["weight_distances"]:
        return "They have no weights of the same name and shape."
    closest, farthest = (
        select(result["weight_distances"], key=lambda layer: layer["distance"]) for select in (min, max)
    )
    if farthest["distance"] == 0:
        text = "Weights of the same name are equal"
    else:
        text = _closest_and_farthest_text(closest, farthest)
    num_other = result["num_unmatched"]
    return text + (f"; {pluralize(num_other, 'parameter')} are not in both networks." if num_other else ".")


def _closest_and_farthest_text(closest: Result, farthest: Result) -> str:
    return (
        f"The closest weights are {closest['name']} (distance {format_number(closest['distance'], 2)} of their norm), "
        f"the farthest {farthest['name']} ({format_number(farthest['distance'], 2)}; unrelated weights: about 1.41)"
    )


def _render_curves(result: Result) -> list[RenderedFigure]:
    runs = [
        ComparedRun(
            name=network["name"],
            model=network["arch"],
            data=network["dataset"],
            recipe=network["recipe"],
            log=network["log"],
            seed=network["seed"],
        )
        for network in result["models"]
    ]
    figures = []
    metric = _metric(result)
    metric_title = f"{metric.title[0].upper()}{metric.title[1:]}"
    for title, key, split, unit, caption in (
        (metric_title, metric.name, "eval", "%" if metric.is_fraction else "", "On the validation or test images."),
        ("Training loss", "loss", "train", "", "On the augmented training images."),
    ):
        curves = run_curves(runs, key, split=split)
        if curves:
            figures.append(
                RenderedFigure(plot_metric(curves, unit), f"{title} against epochs. {caption}", title, caption)
            )
    return figures


def _render_flips(result: Result) -> RenderedFigure | None:
    flipped = result["flipped"]
    if not flipped:
        return None
    first, second = _network_names(result)
    rows = []
    for start in range(0, len(flipped), _IMAGES_PER_ROW):
        chunk = flipped[start : start + _IMAGES_PER_ROW]
        captions = [
            f"{image['label']}\n{_prediction_text(image, 'first')}\n{_prediction_text(image, 'second')}"
            for image in chunk
        ]
        padding = [None] * (_IMAGES_PER_ROW - len(chunk))  # keeps a few images from being drawn large
        rows.append(ImageRow("", [*(decode_data_uri(image["image"]) for image in chunk), *padding], captions))
    alt_text = f"Images that only one of {first} and {second} classifies correctly."
    caption = f"Below each: true class, prediction of {first}, prediction of {second}. Most confident errors first."
    return RenderedFigure(plot_image_grid(rows, cell_inches=1.25), alt_text, "Images on which they disagree", caption)


def _prediction_text(image: Result, key: str) -> str:
    return f"{image[key]}{'' if image[key] == image['label'] else ' ✕'}"


def _render_distances(result: Result) -> RenderedFigure | None:
    layers = result["weight_distances"]
    if len(layers) < 2:
        return None
    profile = DepthProfile("distance", [layer["distance"] for layer in layers], 0)
    figure = plot_depth_profiles(
        [profile],
        log=False,
        xlabel="weight, from input to output",
        from_zero=True,
        names=[layer["name"].removesuffix(".weight") for layer in layers],
    )
    alt_text = "Distance between the weights of each layer over their norm, from input to output."
    return RenderedFigure(
        figure, alt_text, "Distance between the weights", f"{alt_text} Unrelated weights: about 1.41."
    )


def _render_network_table(result: Result) -> RenderedTable:
    rows = [
        [
            network["name"],
            network["arch"] or "–",
            network["recipe"] or "–",
            format_int(network["num_parameters"]),
            _score_text(result, network),
            format_number(network["loss"], 4),
        ]
        for network in result["models"]
    ]
    return RenderedTable("Networks", ["network", "model", "recipe", "parameters", _metric(result).column, "loss"], rows)


def _render_contingency_table(result: Result) -> RenderedTable:
    first, second = _network_names(result)
    test = result["paired_test"]
    rows = [
        [f"{first} correct", format_int(test["both_correct"]), format_int(test["only_first"])],
        [f"{first} wrong", format_int(test["only_second"]), format_int(test["neither_correct"])],
    ]
    return RenderedTable("Images classified correctly and wrongly", ["", f"{second} correct", f"{second} wrong"], rows)


def _render_layer_table(result: Result) -> RenderedTable:
    rows = [
        [
            layer["name"],
            format_number(layer["norms"][0], 3),
            format_number(layer["norms"][1], 3),
            format_number(layer["distance"], 3),
            format_number(layer["cosine"], 3),
        ]
        for layer in result["weight_distances"]
    ]
    first, second = _network_names(result)
    columns = ["weight", f"norm in {first}", f"norm in {second}", "distance", "cosine"]
    return RenderedTable("Weights in both networks", columns, rows)
