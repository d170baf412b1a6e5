"""The page of a study and its Markdown: the scale on everything, ours beside reported, verdicts, what was not run."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from page_reader import assert_sound
from sample_study import ENDS, sample_study_page

from reslab.report.pages.study import plot_study_figures, render_study_markdown, study_context, value_rows
from reslab.report.pages.study_results import (
    StudyPage,
    StudyRow,
    StudyRun,
    metric_display_name,
    ours_text,
    panel_title,
    reported_text,
    scale_text,
    study_summary_text,
)
from reslab.report.plots.study_curves import error_curve
from reslab.report.render import render_page
from reslab.spec.papers import STUDIES, get_study
from reslab.spec.study import ReportedValue

STUDY = "he2015/degradation"


@pytest.fixture(scope="module")
def page() -> StudyPage:
    return sample_study_page(STUDY)


@pytest.fixture(scope="module")
def text_and_files(page: StudyPage) -> tuple[str, dict[str, str]]:
    return render_study_markdown(page, "images")


def test_the_page_is_self_contained_and_complete(page: StudyPage) -> None:
    result = assert_sound(render_page(page))
    for row in page.rows:
        assert row.row.name in result.text
    for claim in page.claims:
        assert claim.text in result.text
        assert claim.explanation in result.text
    for words in ("8.75 %", "13.5 % (from memory)", "holds at this scale", "undecided at this scale", "Table 6"):
        assert words in result.text
    for fact in page.metadata.values():
        assert fact in result.text
    assert "A damaged entry of plain-44 was created again." in result.text


@pytest.mark.parametrize("scale", ["smoke", "short", "full"])
def test_the_scale_is_stamped_on_the_page_and_inside_each_figure(scale: str) -> None:
    page = sample_study_page(STUDY, scale, seeds=2)
    text, files = render_study_markdown(page)
    stamp = f"reslab · {STUDY} · {scale} scale · 2 seeds"
    assert len(files) == 4
    assert all(stamp in file for file in files.values())
    assert f"**{scale.capitalize()} scale:**" in text
    html = render_page(page)
    assert html.count(stamp) == len(files)
    assert f"{scale} scale" in assert_sound(html).text


def test_a_row_that_was_not_run_is_listed_with_its_estimated_time(
    page: StudyPage, text_and_files: tuple[str, object]
) -> None:
    name = page.rows[-1].row.name
    lines = [line for line in text_and_files[0].splitlines() if line.startswith(f"| {name} ")]
    assert any("not run" in line and "about 1 h 02 min" in line for line in lines)
    assert "7 of 8 rows run" in study_summary_text(page)


def test_markdown_links_every_figure_it_writes(text_and_files: tuple[str, dict[str, str]]) -> None:
    text, files = text_and_files
    linked = re.findall(r"!\[[^\]]+\]\(images/([^)]+)\)", text)
    assert linked == list(files)
    for file in files.values():
        root = ElementTree.fromstring(file)
        assert root.tag.endswith("svg")
        assert next(iter(root)).tag.endswith("title")
        assert "http" not in file.replace("http://www.w3.org/", "")


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("test_voc_map", "test VOC mAP"),
        ("test_ap50", "test AP50"),
        ("test_error_top5", "test error, top 5"),
        ("responses.mean_std", "responses, mean std"),
    ],
)
def test_metrics_have_names_for_readers(metric: str, name: str) -> None:
    assert metric_display_name(metric) == name


def test_tables_of_the_markdown_are_whole(text_and_files: tuple[str, object]) -> None:
    widths = []
    for block in re.findall(r"(?:^\|.*\n)+", text_and_files[0], flags=re.M):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1
        widths.append(counts.pop() - 1)
    assert widths == [3, 7, 4, 3, 2]


def test_the_same_page_gives_the_same_bytes(page: StudyPage, text_and_files: tuple[str, dict[str, str]]) -> None:
    assert render_study_markdown(page, "images") == text_and_files
    assert render_page(page) == render_page(page)


def test_ours_is_the_mean_with_the_spread_of_the_seeds(page: StudyPage) -> None:
    row = get_study(STUDY).rows[0]
    runs = [StudyRun(seed, {"test_error": value}) for seed, value in enumerate((10.0, 11.0, 12.0))]
    result = StudyRow(row, page.rows[0].preset, runs)
    assert (result.mean(), result.std()) == (11.0, 1.0)
    assert ours_text(result, "", "%") == "11.00 ± 1.00 %"
    assert ours_text(replace(result, runs=runs[:1]), "", "%") == "10.00 %"
    assert ours_text(replace(result, runs=()), "", "%") == "not run"
    broken = replace(result, runs=[StudyRun(0, {"test_error": float("nan")})])
    assert ours_text(broken, "", "%") == "NaN"
    assert result.mean("train_error") is None


def test_reported_values_state_their_provenance() -> None:
    assert reported_text(ReportedValue(6.61, std=0.16, provenance="verified"), "%") == "6.61 ± 0.16 %"
    assert reported_text(ReportedValue(9.0), "%") == "9 % (from memory)"
    assert reported_text(ReportedValue(None, note="fail: above 20 %", provenance="verified"), "%") == "fail: above 20 %"
    assert reported_text(None, "%") == "–"


def test_a_figure_of_curves_draws_every_row_that_was_run(page: StudyPage) -> None:
    figure = plot_study_figures(page)[0].figure
    left, right = figure.axes[:2]
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "plain-20",
        "plain-32",
        "plain-44",
        "plain-56",
    ]
    assert len(left.lines) == 8  # training and test error of four rows
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["residual-20", "residual-32", "residual-44"]
    assert left.get_ylim() == right.get_ylim()
    dashed = [line.get_linestyle() == "--" for line in left.lines]
    assert dashed == [True, False] * 4


def test_a_line_of_seeds_is_their_mean_and_their_band() -> None:
    row = get_study(STUDY).rows[0]
    logs = [[{"kind": "eval", "step": step, "split": "test", "top1": top1} for step in (10, 20)] for top1 in (0.5, 0.7)]
    cut = get_study(STUDY).preset_for(row, "short")
    line = error_curve(StudyRow(row, cut, [StudyRun(seed, log=log) for seed, log in enumerate(logs)]), "eval")
    assert line.x == (10.0, 20.0)
    assert line.mean == pytest.approx((40.0, 40.0))
    assert line.low == pytest.approx((30.0, 30.0))
    assert line.high == pytest.approx((50.0, 50.0))
    assert not error_curve(StudyRow(row, cut), "eval")


@pytest.mark.parametrize(("split", "name"), [("test", "test"), ("val", "validation")])
def test_curves_and_captions_name_the_split_that_was_evaluated(split: str, name: str) -> None:
    page = sample_study_page("he2016/table1", seeds=1)
    rows = [
        replace(
            row,
            runs=[
                replace(run, log=[{**line, "split": split} if line["kind"] == "eval" else line for line in run.log])
                for run in row.runs
            ],
        )
        for row in page.rows
    ]
    [figure] = [figure for figure in plot_study_figures(replace(page, rows=rows)) if "loss-and-error" in figure.name]
    assert f"{name} error bold on the right" in figure.caption
    assert f"{name} error (bold)" in [axes.get_ylabel() for axes in figure.figure.axes]


def test_seeds_that_stopped_early_do_not_stretch_the_line() -> None:
    row = get_study(STUDY).rows[0]
    logs = [[{"kind": "train", "step": step, "top1": 0.5} for step in range(1, end)] for end in (4, 9)]
    runs = [StudyRun(seed, log=log) for seed, log in enumerate(logs)]
    line = error_curve(StudyRow(row, get_study(STUDY).preset_for(row, "short"), runs), "train")
    assert line.x == (1.0, 2.0, 3.0)


def test_a_page_without_results_lists_what_would_run() -> None:
    study = get_study("he2015/table3")
    rows = [
        StudyRow(row, study.preset_for(row, "full"), not_run_reason="its data are not here", estimated_seconds=1e6)
        for row in study.rows
    ]
    page = StudyPage(study, "full", rows)
    assert plot_study_figures(page) == []
    assert "0 of 7 rows run" in assert_sound(render_page(page)).text
    assert render_study_markdown(page)[0].count("its data are not here") == 7


def test_further_reported_values_have_lines_of_their_own() -> None:
    page = sample_study_page("d2l/fashion")
    lines = value_rows(replace(page, rows=[replace(page.rows[0], runs=page.rows[0].runs)]))
    assert [line["metric"] for line in lines] == ["test error", "train loss", "train error"]
    assert [line["reported"] for line in lines] == ["10.5 %", "0.014", "0.4 %"]


@pytest.mark.parametrize("name", [name for name in STUDIES if name.startswith(("he2016/", "wrn", "book", "goyal"))])
def test_every_kind_of_study_has_a_page(name: str) -> None:
    parts = study_context(sample_study_page(name, seeds=1))
    assert len(parts["rows"]) >= len(STUDIES[name].rows)
    assert parts["figures"]


def test_gradients_and_responses_are_drawn_from_analysis_results() -> None:
    study = get_study("he2015/initial")
    result = {
        "blocks": [{"input_norm": 2.0**unit} for unit in range(9)],
        "layers": [{"std": 1.0 + n} for n in range(19)],
    }
    runs = [StudyRun(seed, analysis_results={"gradients@init": result, "responses@init": result}) for seed in (0, 1)]
    page = StudyPage(study, "short", [StudyRow(row, study.preset_for(row, "short"), runs) for row in study.rows])
    gradients, responses = plot_study_figures(page)[:2]
    assert len(gradients.figure.axes) == 2
    assert gradients.figure.axes[0].get_yscale() == "log"
    assert len(responses.figure.axes) == 4
    below = responses.figure.axes[2].lines[0].get_ydata()
    assert list(below) == sorted(below, reverse=True)


def test_the_sample_has_the_rows_of_the_study() -> None:
    assert ENDS.keys() == {row.name for row in get_study(STUDY).rows}


def test_a_number_without_a_unit_has_the_decimals_of_its_spread() -> None:
    row = sample_study_page("he2015/initial").rows[0]
    name = row.row.metric
    three_runs = [replace(run, values={name: value}) for run, value in zip(row.runs, (1.0, 1.2, 1.4), strict=True)]
    assert ours_text(replace(row, runs=three_runs), name, "") == "1.20 ± 0.20"
    assert ours_text(replace(row, runs=three_runs[:1]), name, "") == "1"


def test_rows_with_some_seeds_are_listed_as_incomplete(page: StudyPage) -> None:
    assert "## Not run\n" in render_study_markdown(page)[0]
    part = replace(page.rows[0], not_run_reason="1 of 3 seeds was run")
    text, _ = render_study_markdown(replace(page, rows=[part, *page.rows[1:]]))
    assert "## Not run, or incomplete\n" in text


def test_the_scale_text_names_an_example_where_presets_differ(page: StudyPage) -> None:
    assert "All rows: " in scale_text(replace(page, rows=page.rows[:1]))
    smoke = sample_study_page(scale="smoke")
    assert "Most rows, such as plain-20: 256 of the bundled" in scale_text(smoke)


def test_a_figure_has_the_depth_that_was_run() -> None:
    page = sample_study_page("he2016/table2", "short", seeds=2)
    rows = [
        replace(row, depth=38 if "110" in row.row.name else 29, source_depth=110 if "110" in row.row.name else 164)
        for row in page.rows
    ]
    page = replace(page, rows=rows)
    assert "38 layers in place of 110, 29 layers in place of 164" in scale_text(page)
    text, files = render_study_markdown(page)
    curves = [file for name, file in files.items() if "loss-and-error" in name]
    assert curves
    assert all("110 layers (run: 38)" in file and "164 layers (run: 29)" in file for file in curves)
    assert all("38 layers in place of 110" in file for file in files.values())
    assert "38 layers in place of 110" in text
    full = replace(page, rows=[replace(row, depth=row.source_depth) for row in rows])
    assert "in place of 110" not in scale_text(full)
    assert panel_title(full, full.study.figures[0].panels[0]) == full.study.figures[0].panels[0].title


def test_values_that_the_source_does_not_state_are_listed_separately() -> None:
    page = sample_study_page("book/chapter8", "full")
    claims = [
        replace(result, is_ours=claim.is_ours) for result, claim in zip(page.claims, page.study.claims, strict=True)
    ]
    page = replace(page, claims=claims)
    ours = [claim.text for claim in claims if claim.is_ours]
    assert len(ours) == 1
    text, _ = render_study_markdown(page)
    stated, own = text.split("## Tests of our own, not stated in the book")
    assert "## Claims of the book" in stated
    assert ours[0] in own
    assert ours[0] not in stated
    assert "the paper" not in stated
    html = assert_sound(render_page(page)).text
    assert html.index("Claims of the book") < html.index("Tests of our own") < html.index(ours[0])
    assert " of 8 claims hold" in study_summary_text(page)


def test_the_gradients_at_initialization_are_tests_of_our_own() -> None:
    """The paper says healthy norms, but neither when nor within which factor."""
    assert all(claim.is_ours for claim in get_study("he2015/initial").claims)


def test_a_row_of_fewer_epochs_is_not_plotted_with_the_reported_values() -> None:
    page = sample_study_page("book/chapter8", "short")
    figure = plot_study_figures(page)[-1]
    assert figure.name == "book-chapter8-reported"
    assert "res-deep" not in figure.alt_text
    assert (
        "Not shown, because trained for fewer epochs than in the book: res-deep (5 of 100 epochs, bf16)."
        in figure.caption
    )
    [row] = [row for row in value_rows(page) if row["name"] == "res-deep"]
    assert "5 of 100 epochs" in row["arch"]
    at_full_scale = plot_study_figures(sample_study_page("book/chapter8", "full"))[-1]
    assert "Not shown" not in at_full_scale.caption
