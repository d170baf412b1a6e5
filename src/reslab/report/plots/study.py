"""The plot of each kind of figure that a study can have."""

from collections.abc import Callable

from matplotlib.figure import Figure

from reslab.report.pages.study_results import StudyPage
from reslab.report.plots.study_curves import plot_error_curves, plot_loss_and_error, plot_train_then_test
from reslab.report.plots.study_profiles import plot_gradient_profiles, plot_response_profiles
from reslab.report.plots.study_values import plot_metric_lines
from reslab.spec.study import FigureSpec

STUDY_PLOTS: dict[str, Callable[[StudyPage, FigureSpec, str], Figure]] = {
    "error_curves": plot_error_curves,
    "loss_and_error": plot_loss_and_error,
    "train_then_test": plot_train_then_test,
    "lines": plot_metric_lines,
    "gradients": plot_gradient_profiles,
    "responses": plot_response_profiles,
}
