"""Everything that the page of a study names; the same parts make its Markdown.

The page of a study as Markdown, its figures as SVG files beside it: what stands in docs/studies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from reslab.report.format import markdown_table, seconds
from reslab.report.pages.study_text import (
    StudyPage,
    StudyRow,
    metric_name,
    metric_words,
    ours_words,
    price_words,
    provenance_words,
    reported_words,
    scale_words,
    seeds_words,
    stamp_words,
    summary_words,
)
from reslab.report.plots.export import svg, svg_file
from reslab.report.plots.study import StudyFigure, study_figures
from reslab.spec.study import Metric, Reported, metric_of


def study_parts(page: StudyPage) -> dict[str, Any]:
    """The values of `study.html`, by name. A figure's name is the id of its drawing on the page."""
    figures = study_figures(page)
    return {
        "kind": f"Study · {page.study.name}",
        "title": page.study.title,
        "summary": summary_words(page),
        "scale": page.scale,
        "scale_words": scale_words(page),
        "stamp": stamp_words(page),
        "source": page.study.source,
        "claims": claim_rows(page),
        "figures": [_drawn(figure) for figure in figures],
        "rows": value_rows(page),
        "metrics": metric_words(page_metrics(page)),
        "missing": missing_rows(page),
        "missing_words": missing_words(page),
        "differences": difference_words(page),
        "notes": note_words(page),
        "facts": study_facts(page),
        "sections": [],
    }


def claim_rows(page: StudyPage) -> list[dict[str, str]]:
    """Each claim with its verdict, a word for its look, and the reason."""
    kinds = {"holds": "holds", "fails": "fails"}
    return [
        {
            "text": claim.text,
            "verdict": claim.verdict if page.scale == "full" or claim.verdict == "not judged"
            else f"{claim.verdict} at this scale",
            "kind": kinds.get(claim.verdict, "open"),
            "words": claim.words,
        }
        for claim in page.claims
    ]  # fmt: skip


def value_rows(page: StudyPage) -> list[dict[str, str]]:
    """A line a row and metric: name, network, what it measures, reported, ours, seeds, where it is reported, time."""
    return [line for row in page.rows for line in _lines(row)]


def _lines(row: StudyRow) -> list[dict[str, str]]:
    first: tuple[Metric, Reported | None] = (row.metric, row.row.reported)
    every = [first, *((metric_of(told.metric), told) for told in row.row.also)]
    return [
        {
            "name": row.row.name if place == 0 else "",
            "network": (row.network or row.row.model) if place == 0 else "",
            "metric": metric_name(metric.name),
            "reported": reported_words(told, metric.unit),
            "ours": ours_words(row, metric.name, metric.unit),
            "seeds": str(len(row.values(metric.name)) or len(row.runs)) if row.runs else "–",
            "where": provenance_words(told),
            "time": seconds(spent) if place == 0 and (spent := sum(run.train_seconds for run in row.runs)) else "",
            "run": "yes" if row.runs else "",
        }
        for place, (metric, told) in enumerate(every)
    ]


def page_metrics(page: StudyPage) -> list[Metric]:
    """Every metric of the page's table, each once."""
    names = [row.row.metric for row in page.rows]
    names += [told.metric for row in page.rows for told in row.row.also]
    return [metric_of(name) for name in dict.fromkeys(names)]


def missing_words(page: StudyPage) -> str:
    """The heading over `missing_rows`: some of them may be there in part, or have diverged."""
    return "Not run, or not in full" if any(row.runs and row.why for row in page.rows) else "Not run"


def missing_rows(page: StudyPage) -> list[dict[str, str]]:
    """The rows that were not run, or not wholly, each with the reason and its price."""
    return [
        {"name": row.row.name, "why": row.why or "not run", "price": price_words(row)}
        for row in page.rows
        if not row.runs or row.why
    ]


def difference_words(page: StudyPage) -> list[str]:
    """Where the procedure is not the paper's: the cuts of the scale with the rows they are of, then the study's own."""
    by_cut: dict[str, list[str]] = {}
    for row in page.rows:
        by_cut.setdefault(row.cut.words, []).append(row.row.name)
    if page.scale == "full":
        cuts = [f"{words} ({_names(names)})" for words, names in by_cut.items() if not words.startswith("nothing")]
    elif len(by_cut) == 1:
        cuts = [f"all rows: {words}" for words in by_cut]
    else:
        cuts = [f"{_names(names)}: {words}" for words, names in by_cut.items()]
    return [*cuts, *page.study.differences]


def note_words(page: StudyPage) -> list[str]:
    """What a reader must be told beside: of these trainings, then of the study."""
    return [*page.notes, *([page.study.notes] if page.study.notes else [])]


def study_facts(page: StudyPage) -> dict[str, str]:
    """Study, source, scale and seeds, then the facts of the page."""
    own = {"study": page.study.name, "source": page.study.source, "scale": page.scale, "seeds": seeds_words(page)}
    return own | {str(name): str(value) for name, value in page.facts.items()}


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:4])} and {len(names) - 4} more"


def _drawn(figure: StudyFigure) -> dict[str, Any]:
    wide = float(figure.figure.get_size_inches()[0])
    return {
        "title": figure.title,
        "svg": Markup(svg(figure.figure, figure.name, figure.label)),
        "caption": figure.caption,
        "wide": wide > 7.5,
        "least": round(62 * wide),
    }


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
