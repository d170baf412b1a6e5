"""Numbers at paths into answers: fields, places, lists taken member by member, reductions."""

import pytest

from reslab.studies.metrics import result_value

ANSWERS = {
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
    assert result_value(name, ANSWERS) == value
