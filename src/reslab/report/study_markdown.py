"""The page of a study as Markdown, its figures as SVG files beside it: what stands in docs/studies."""

from collections.abc import Mapping, Sequence

from reslab.report.figures.svg_file import svg_file
from reslab.report.format import markdown_table
from reslab.report.pages.study import (
    claim_rows,
    difference_words,
    missing_rows,
    missing_words,
    note_words,
    page_metrics,
    study_facts,
    value_rows,
)
from reslab.report.pages.study_text import metric_words, scale_words, summary_words
from reslab.report.plots.study import StudyFigure, study_figures
from reslab.report.study_page import StudyPage

_MARKS = {"holds": "✅", "fails": "❌", "open": "◻️"}


def study_markdown(page: StudyPage, figures_in: str = "") -> tuple[str, dict[str, str]]:
    """The text, and the SVG of each figure by file name; the text looks for them in the folder `figures_in`."""
    figures = study_figures(page)
    files = {f"{figure.name}.svg": svg_file(figure.figure, figure.label) for figure in figures}
    parts = [
        f"# {page.study.title}",
        f"`{page.study.name}` · {page.study.source}",
        f"> **{scale_words(page).replace(':', ':**', 1)}",
        summary_words(page),
        *_claims(page),
        *_figures(figures, figures_in),
        "## The numbers",
        _values(page),
        " ".join(metric_words(page_metrics(page)))
        + f" Ours: {page.scale} scale, the mean over the seeds ± their standard deviation, always of the last step.",
        _provenance(page),
        *_missing(page),
        *_list("## Where this is not the paper's procedure", difference_words(page)),
        *_list("## Notes", note_words(page)),
        *_facts(study_facts(page)),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n", files


def _claims(page: StudyPage) -> list[str]:
    lines = [[f"{_MARKS[row['kind']]} {row['verdict']}", row["text"], row["words"]] for row in claim_rows(page)]
    return ["## What the paper says, and what came out", markdown_table(["verdict", "claim", "why"], lines)] * bool(
        lines
    )


def _figures(figures: Sequence[StudyFigure], folder: str) -> list[str]:
    found = []
    for figure in figures:
        alt = figure.label.replace("[", "(").replace("]", ")")
        place = f"{folder.rstrip('/')}/" if folder else ""
        found += [f"### {figure.title}", f"![{alt}]({place}{figure.name}.svg)", figure.caption]
    return ["## In pictures", *found] if found else []


def _values(page: StudyPage) -> str:
    columns = ("row", "network", "metric", "reported", f"ours, {page.scale}", "seeds", "training")
    lines = [
        [
            row["name"],
            f"`{row['network']}`" if row["network"] else "",
            row["metric"],
            row["reported"],
            f"**{row['ours']}**" if row["run"] else row["ours"],
            row["seeds"],
            row["time"],
        ]
        for row in value_rows(page)
    ]
    return markdown_table(columns, lines, "lllrrrr")


def _provenance(page: StudyPage) -> str:
    told = [row for row in value_rows(page) if row["where"]]
    if not told:
        return ""
    table = markdown_table(
        ("row", "metric", "reported", "how, and where"),
        [[row["name"], row["metric"], row["reported"], row["where"]] for row in told],
        "llrl",
    )
    return f"<details><summary>Where each reported value is printed</summary>\n\n{table}\n</details>"


def _missing(page: StudyPage) -> list[str]:
    lines = [[row["name"], row["why"], row["price"]] for row in missing_rows(page)]
    return (
        [f"## {missing_words(page)}", markdown_table(("row", "why", "price, all seeds"), lines, "llr")] if lines else []
    )


def _list(heading: str, lines: Sequence[str]) -> list[str]:
    return [heading, "\n".join(f"* {line}" for line in lines)] if lines else []


def _facts(facts: Mapping[str, str]) -> list[str]:
    command = facts.get("command", "")
    lines = [[name, value] for name, value in facts.items() if name != "command"]
    return ["## Facts", *([f"```\n{command}\n```"] if command else []), markdown_table(("", ""), lines)]
