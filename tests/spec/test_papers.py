"""The papers' tables: every value equals an excerpt of its source; every row's network, recipe and preset."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from reslab.nn.factory import create_model
from reslab.spec.arch import parse_arch_overrides
from reslab.spec.dense import DenseArch
from reslab.spec.papers import STUDIES, get_study
from reslab.spec.recipe import apply_recipe_overrides
from reslab.spec.recipes import find_recipe
from reslab.spec.study import METRICS, SCALES, ReportedValue, RowSpec, ScalePreset, as_number
from reslab.studies.resolve import named_network

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "reported.json").read_text(encoding="utf-8"))
ROWS = [(study, row) for study in STUDIES.values() for row in study.rows]
IDS = [f"{study.name}:{row.name}" for study, row in ROWS]
TRAINED = [(study, row) for study, row in ROWS if row.model]


def reported() -> dict[tuple[str, str, str], ReportedValue]:
    """Every reported value of the studies by study, row and metric (empty for the row's own)."""
    result = {}
    for study, row in ROWS:
        for reported_value, metric in (
            (row.reported, ""),
            *((reported_value, reported_value.metric) for reported_value in row.more_reported),
        ):
            if reported_value is not None:
                result[study.name, row.name, metric] = reported_value
    return result


def golden() -> dict[tuple[str, str, str], tuple[object, dict[str, object]]]:
    """Every value of the excerpts under the same keys, with its excerpt."""
    result: dict[tuple[str, str, str], tuple[object, dict[str, object]]] = {}
    for entry in GOLDEN["excerpts"]:
        for study, values in entry["values"].items():
            for key, value in values.items():
                row, _, metric = key.partition(" ")
                assert (study, row, metric) not in result
                result[study, row, metric] = value, entry
    return result


def test_every_reported_value_has_an_excerpt_and_no_excerpt_is_left_over() -> None:
    assert reported().keys() == golden().keys()


@pytest.mark.parametrize("key", reported(), ids=" ".join)
def test_a_reported_value_is_what_its_source_prints(key: tuple[str, str, str]) -> None:
    reported_value, (value, entry) = reported()[key], golden()[key]
    std = None
    if isinstance(value, list):
        value, std = value
    if isinstance(value, dict):
        assert value["accuracy"] == pytest.approx(1 - (reported_value.value or 0.0) / 100)
        assert f"{value['accuracy']:g}" in str(entry["excerpt"])
    else:
        assert (reported_value.value, reported_value.std) == (value, std)
        assert value is None or f"{value:g}" in str(entry["excerpt"])
    if value is None:
        assert "fail" in reported_value.note
        assert "fail" in str(entry["excerpt"])
    assert reported_value.provenance == entry["provenance"]
    assert reported_value.location
    assert reported_value.statistic
    assert reported_value.protocol


def test_values_not_verified_in_the_paper_are_marked() -> None:
    unverified = {key[:2] for key, reported_value in reported().items() if reported_value.provenance != "verified"}
    assert unverified == {
        *(("he2015/degradation", f"plain-{depth}") for depth in (20, 32, 44, 56)),
        ("stochastic_depth2016/table1", "constant-110-c100"),
    }


@pytest.mark.parametrize(("study", "row"), TRAINED, ids=[f"{study.name}:{row.name}" for study, row in TRAINED])
@pytest.mark.parametrize("scale", SCALES)
def test_every_row_has_a_network_and_a_recipe_at_every_scale(study: object, row: RowSpec, scale: str) -> None:
    study = get_study(study.name)  # type: ignore[attr-defined]
    preset = study.preset_for(row, scale)
    assert preset.description
    arch = named_network(preset.model or row.model, _axes(row, preset))
    assert arch.depth >= 3
    backbone = arch.backbone if isinstance(arch, DenseArch) else arch
    backbone = replace(backbone, name="", reference="", depths=tuple(min(count, 3) for count in backbone.depths))
    assert num_params(replace(arch, backbone=backbone) if isinstance(arch, DenseArch) else backbone) > 0
    if row.recipe:
        recipe = find_recipe(preset.recipe or row.recipe)
        changed, _ = apply_recipe_overrides(
            recipe, {key: value for key, value in _settings(row, preset) if not key.startswith("model.")}
        )
        assert changed.optimizer.lr > 0


@cache
def num_params(arch: object) -> int:
    """The size of a network, built without memory for its weights; blocks repeat in a stage, so three are enough."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_model(arch).parameters())  # type: ignore[arg-type]


def _settings(row: RowSpec, preset: ScalePreset) -> list[tuple[str, str]]:
    result = {}
    for setting in (*row.overrides, *preset.overrides):
        key, _, value = setting.partition("=")
        result[key.strip()] = value.strip()
    return list(result.items())


def _axes(row: RowSpec, preset: ScalePreset) -> dict[str, str]:
    axes = dict(parse_arch_overrides(row.arch_overrides))
    axes |= {key.removeprefix("model."): value for key, value in _settings(row, preset) if key.startswith("model.")}
    return axes


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_a_study_is_complete(study: object) -> None:
    study = get_study(study.name)  # type: ignore[attr-defined]
    names = [row.name for row in study.rows]
    assert len(set(names)) == len(names)
    assert study.claims
    assert len({claim.text for claim in study.claims}) == len(study.claims)
    for claim in study.claims:
        assert claim.rows
        assert set(claim.rows) <= set(names)
        assert claim.metric
        assert as_number(claim.right) is not None or set(claim.rows) - {claim.left}
    for figure in study.figures:
        assert set(figure.rows) <= set(names)
    for reported_value in (reported_value for row in study.rows for reported_value in row.more_reported):
        assert reported_value.metric in METRICS
    assert all(row.presets is not None for row in study.rows) or study.presets.short.description


def test_names_are_paper_and_table() -> None:
    assert all(name.count("/") == 1 for name in STUDIES)
    expected = {"he2015/degradation", "he2015/table6", "he2016/table1", "he2016/table2", "d2l/fashion", "book/chapter8"}
    assert expected <= STUDIES.keys()


def test_claims_hold_for_the_papers_values() -> None:
    """A claim on test errors holds for the reported values themselves, where both sides have one."""
    tested = 0
    for study in STUDIES.values():
        for claim in study.claims:
            values = [
                as_number(side)
                if as_number(side) is not None
                else _reported_for(study.get_row(str(side)), claim.metric)
                for side in (claim.left, claim.right)
                if as_number(side) is not None or str(side) in [row.name for row in study.rows]
            ]
            if len(values) < 2 or None in values:
                continue
            left, right = values
            assert left is not None
            assert right is not None
            tested += 1
            held = {"<": left < right, ">": left > right, "within": abs(left - right) <= claim.margin}[claim.relation]
            assert held, f"{study.name}: {claim.text}"
    assert tested > 40


def _reported_for(row: RowSpec, metric: str) -> float | None:
    if row.metric == metric and row.reported is not None:
        return row.reported.value
    return next((reported_value.value for reported_value in row.more_reported if reported_value.metric == metric), None)


def test_smoke_is_small_and_short_has_few_seeds() -> None:
    for study, row in ROWS:
        smoke, short = study.preset_for(row, "smoke"), study.preset_for(row, "short")
        assert smoke.data in ("digits", "drawn-shapes")
        assert smoke.seeds <= 2
        assert 1 <= short.seeds <= 5
        if row.recipe and not row.members:
            assert any(setting.startswith("duration=12 steps") for setting in smoke.overrides)


def test_the_steps_in_the_description_of_a_preset_are_its_steps() -> None:
    seen = 0
    for study, row in ROWS:
        preset = study.preset_for(row, "short")
        reported_value = re.search(r"([\d,]+) steps of one cycle in place of (\d+ epochs|[\d,]*\d)", preset.description)
        if reported_value is None:
            continue
        seen += 1
        own = dict(setting.split("=", 1) for setting in row.overrides).get("duration", find_recipe(row.recipe).duration)
        assert dict(_settings(row, preset))["duration"] == f"{reported_value[1].replace(',', '')} steps", row.name
        assert own.replace("k steps", ",000") == reported_value[2], row.name
    assert seen > 50
