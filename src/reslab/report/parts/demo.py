"""Everything that the template of the demonstration's page names."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from reslab.report.format import count, percent, plural, seconds
from reslab.report.gradient_words import gradient_words
from reslab.report.page import DemoNetwork, DemoPage
from reslab.report.pages.demo import curve_words, demo_rows, demo_summary
from reslab.report.pages.run import panel
from reslab.report.parts.scores import tile
from reslab.report.plots.curves import Curve, accuracy_figure, loss_figure
from reslab.report.plots.depth import Profile, depth_figure
from reslab.report.plots.export import svg
from reslab.report.series import Series, eval_series, splits, train_series
from reslab.spec.errors import refuse

_COLOURS = ("one", "two")


def demo_parts(page: DemoPage) -> dict[str, Any]:
    """The values of `demo.html`, by name. Raises ValueError unless there are two networks."""
    if len(page.networks) != 2:
        raise refuse("two networks: the residual one, then its plain twin", plural(len(page.networks), "network"))
    return {
        "title": page.title,
        "summary": page.summary or demo_summary(page),
        "facts": {str(name): str(value) for name, value in page.facts.items()},
        "tiles": [
            _tile(network, colour, page.num_samples) for network, colour in zip(page.networks, _COLOURS, strict=True)
        ],
        "curves": _panels(page.networks),
        "curve_words": curve_words(page),
        "gradient_svg": _gradients(page.networks),
        "gradient_caption": _gradient_caption(page.networks),
        "gradient_words": gradient_words(page),
        "names": [network.name for network in page.networks],
        "rows": demo_rows(page),
    }


def _tile(network: DemoNetwork, colour: str, num_samples: int) -> dict[str, Any]:
    of = f"of {count(num_samples)} held-out images right" if num_samples else "of the held-out images right"
    return tile(
        network.name, percent(network.top1, 1), of, f"trained in {seconds(network.train_seconds)}", colour=colour
    )


def _held_out(network: DemoNetwork, value: str) -> Series:
    names = splits(network.log)
    return eval_series(network.log, names[0], value) if names else Series("held-out", (), ())


def _panels(networks: Sequence[DemoNetwork]) -> list[dict[str, Any]]:
    losses = [Curve(train_series(each.log, "loss"), each.name, place) for place, each in enumerate(networks)]
    tops = [Curve(_held_out(each, "top1"), each.name, place) for place, each in enumerate(networks)]
    tops += [
        Curve(train_series(each.log, "top1"), f"{each.name}, training", place, dashed=True)
        for place, each in enumerate(networks)
    ]
    panels = []
    if any(curve.line for curve in losses):
        panels.append(
            panel("Training loss", loss_figure(losses), "How well each network fits the images it learns from.", "loss")
        )
    if any(curve.line for curve in tops):
        words = "Solid: images held out. Dashed: the images it learns from."
        panels.append(panel("Accuracy", accuracy_figure(tops), words, "accuracy"))
    return panels


def _profiles(networks: Sequence[DemoNetwork]) -> list[Profile]:
    both = any(network.gradient_norms_end for network in networks)
    start = ", untrained" if both else ""
    profiles = [
        Profile(network.name + start, [norm for _, norm in network.gradient_norms], place)
        for place, network in enumerate(networks)
    ]
    return profiles + [
        Profile(f"{network.name}, trained", [norm for _, norm in network.gradient_norms_end], place, dashed=True)
        for place, network in enumerate(networks)
        if network.gradient_norms_end
    ]


def _gradients(networks: Sequence[DemoNetwork]) -> Markup:
    profiles = _profiles(networks)
    if not any(norm and 0 < norm < float("inf") for profile in profiles for norm in profile.norms):
        return Markup("")
    label = "Norm of the gradient at each unit's input, on a logarithmic scale, from the input to the output."
    return Markup(svg(depth_figure(profiles), "gradients", label))


def _gradient_caption(networks: Sequence[DemoNetwork]) -> str:
    trained = any(network.gradient_norms_end for network in networks)
    when = "Solid: before the first step. Dashed: after training." if trained else "Before the first step of training."
    lost = sum(not 0 < norm < float("inf") for network in networks for _, norm in network.gradient_norms)
    left_out = f" Left out: {plural(lost, 'unit')} whose gradient is zero or no finite number." if lost else ""
    return f"{when} Logarithmic scale; the loss sits at the right, the image at the left.{left_out}"
