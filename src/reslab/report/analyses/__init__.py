"""Renderers of the analyses: results as plain data in, text, figures and tables out."""

from collections.abc import Callable, Sequence

from reslab.report.analyses import attribution, compare, features, gradients, landscape, lesion, shapes, signal
from reslab.report.analyses.result import RenderedResult, Result
from reslab.spec.errors import unknown_name

Results = Sequence[Result]

RENDERERS: dict[str, Callable[[Results], RenderedResult]] = {
    "shapes": shapes.render_shapes,
    "cost": shapes.render_cost,
    "gradients": gradients.render_gradients,
    "telescope": signal.render_telescope,
    "responses": signal.render_responses,
    "scaling": signal.render_scaling,
    "orders": signal.render_orders,
    "lesion": lesion.render_lesion,
    "landscape": landscape.render_landscape,
    "attribution": attribution.render_attribution,
    "features": features.render_features,
    "similarity": features.render_similarity,
    "nearest": features.render_nearest,
    "probes": features.render_probes,
    "compare": compare.render_comparison,
}


def render_analysis(analysis: str, results: Results) -> RenderedResult:
    """Render the results of an analysis, one for each network. Raises ValueError for an unknown analysis."""
    if analysis not in RENDERERS:
        raise unknown_name("analysis", analysis, RENDERERS)
    return RENDERERS[analysis](results)
