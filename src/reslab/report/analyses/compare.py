"""How the answers to `compare` are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from reslab.report.analyses.result import RenderedFigure, RenderedResult, RenderedTable
from reslab.report.format import format_int, format_number, format_percent, pluralize
from reslab.report.pages.compare import ComparedRun, run_curve
from reslab.report.plots.curves import plot_accuracy, plot_loss
from reslab.report.plots.depth import DepthProfile, plot_depth_profiles
from reslab.report.plots.images import ImageRow, decode_data_uri, plot_image_grid

Result = Mapping[str, Any]
_IMAGES_PER_ROW = 7
_SIGNIFICANCE_LEVEL = 0.05


def render_comparison(results: Sequence[Result]) -> RenderedResult:
    """The verdict of the paired test in words; curves, flipped pictures, distances between the weights."""
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
            _render_contingency_table(result),
            *([_render_layer_table(result)] if result["weight_distances"] else []),
        ),
    )


def _network_names(result: Result) -> tuple[str, str]:
    first, second = result["models"]
    return first["name"], second["name"]


def comparison_text(result: Result) -> str:
    """Which is more accurate, by how much, and whether that is more than chance."""
    first, second = result["models"]
    test = result["paired_test"]
    images_text = f"{pluralize(result['num_images'], 'picture')}{' of ' + result['split'] if result['split'] else ''}"
    accuracies = f"{format_percent(first['accuracy'])} and {format_percent(second['accuracy'])} on {images_text}"
    if not test["only_first"] + test["only_second"]:
        return f"{first['name']} and {second['name']} are right on the same pictures: {accuracies}."
    better, worse = (second, first) if test["difference"] > 0 else (first, second)
    if test["difference"] == 0:
        difference_text = f"{first['name']} and {second['name']} are equally accurate"
    else:
        difference_text = (
            f"{better['name']} is {100 * abs(test['difference']):.2f} points more accurate than {worse['name']}"
        )
    chance_text = (
        "more than chance would give" if test["p_value"] < _SIGNIFICANCE_LEVEL else "which chance alone may give"
    )
    return f"{difference_text} ({accuracies}), {chance_text}: p = {_p_value_text(test['p_value'])} by McNemar's exact test."


def _p_value_text(value: float) -> str:
    return "less than 0.0001" if value < 1e-4 else f"{value:.2g}"


def _p_value_paragraph(result: Result) -> str:
    """What the p-value is about."""
    first, second = _network_names(result)
    test = result["paired_test"]
    num_flips = test["only_first"] + test["only_second"]
    if not num_flips:
        return ""
    low, high = (100 * test[bound] for bound in ("ci_low", "ci_high"))
    return (
        f"They differ on {pluralize(num_flips, 'picture')}: {format_int(test['only_first'])} only {first} calls right, "
        f"{format_int(test['only_second'])} only {second}. If both were equally good, a split at least as uneven would come "
        f"up with probability {_p_value_text(test['p_value'])}. With 95 % confidence {second} is {low:+.2f} to {high:+.2f} points "
        f"from {first}; this tells of these two sets of weights, not of other seeds."
    )


def _agreement_text(result: Result) -> str:
    return (
        f"They call {format_percent(result['paired_test']['agreement'], 1)} of the pictures the same, right or wrong."
    )


def _weights_text(result: Result) -> str:
    if not result["weight_distances"]:
        return "They have no weights of the same name and shape."
    closest, farthest = (
        select(result["weight_distances"], key=lambda layer: layer["distance"]) for select in (min, max)
    )
    if farthest["distance"] == 0:
        text = "The weights of the same name are equal, as after one start and no training"
    else:
        text = _closest_and_farthest_text(closest, farthest)
    num_other = result["num_unmatched"]
    return text + (f"; {pluralize(num_other, 'parameter')} are not in both." if num_other else ".")


def _closest_and_farthest_text(closest: Result, farthest: Result) -> str:
    return (
        f"Of their weights {closest['name']} is nearest (distance {format_number(closest['distance'], 2)} of its norm) and "
        f"{farthest['name']} furthest ({format_number(farthest['distance'], 2)}; two unrelated ones: about 1.41)"
    )


def _render_curves(result: Result) -> list[RenderedFigure]:
    runs = [
        ComparedRun(
            network["name"], network["arch"], network["dataset"], network["recipe"], network["log"], network["seed"]
        )
        for network in result["models"]
    ]
    figures = []
    for title, key, held_out, plot in (
        ("Accuracy", "top1", True, plot_accuracy),
        ("Training loss", "loss", False, plot_loss),
    ):
        curves = [run_curve(run, color_index, key, held_out) for color_index, run in enumerate(runs)]
        if any(curve.series for curve in curves):
            caption = "On images held out from training." if held_out else "On the images each learns from."
            figures.append(RenderedFigure(plot(curves), f"{title} against epochs. {caption}", title, caption))
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
            f"{image['label']}: {_prediction_text(image, 'first')} | {_prediction_text(image, 'second')}"
            for image in chunk
        ]
        padding = [None] * (_IMAGES_PER_ROW - len(chunk))  # so that a few pictures are not drawn large
        rows.append(ImageRow("", [*(decode_data_uri(image["image"]) for image in chunk), *padding], captions))
    alt_text = f"Pictures that only one of {first} and {second} calls right."
    caption = f"Below each: its class, then what {first} | {second} call it. Those that were surest of the wrong first."
    return RenderedFigure(plot_image_grid(rows, cell_inches=1.25), alt_text, "Predictions that flipped", caption)


def _prediction_text(image: Result, key: str) -> str:
    return f"{image[key]}{'' if image[key] == image['label'] else ' ✕'}"


def _render_distances(result: Result) -> RenderedFigure | None:
    layers = result["weight_distances"]
    if len(layers) < 2:
        return None
    profile = DepthProfile("distance", [layer["distance"] for layer in layers], 0)
    figure = plot_depth_profiles(
        [profile], log=False, xlabel="weight, from the input to the output", ylabel="", from_zero=True
    )
    alt_text = "The distance between the weights of each layer, as a share of their norm, from the input to the output."
    return RenderedFigure(
        figure, alt_text, "Distance between the weights", f"{alt_text} Two unrelated ones: about 1.41."
    )


def _render_network_table(result: Result) -> RenderedTable:
    rows = [
        [
            network["name"],
            network["arch"] or "–",
            network["recipe"] or "–",
            format_int(network["num_parameters"]),
            format_percent(network["accuracy"]),
            format_number(network["loss"], 4),
        ]
        for network in result["models"]
    ]
    return RenderedTable("The two", ["network", "model", "recipe", "parameters", "accuracy", "loss"], rows)


def _render_contingency_table(result: Result) -> RenderedTable:
    first, second = _network_names(result)
    test = result["paired_test"]
    rows = [
        [f"{first} right", format_int(test["both_correct"]), format_int(test["only_first"])],
        [f"{first} wrong", format_int(test["only_second"]), format_int(test["neither_correct"])],
    ]
    return RenderedTable("Pictures called right and wrong", ["", f"{second} right", f"{second} wrong"], rows)


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
    return RenderedTable("Weights that both have", columns, rows)
