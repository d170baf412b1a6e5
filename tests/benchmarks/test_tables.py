"""The tables of the benchmarks' page equal what the committed figures render to."""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(name)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _load("tables", monkeypatch)


def test_the_page_shows_the_committed_figures(tables: ModuleType) -> None:
    page, results = tables.PAGE.read_text(encoding="utf-8"), tables.load_results()
    assert tables.fill(page, results) == page, "python benchmarks/tables.py rewrites the tables"
    assert results
    assert set(results) <= set(tables.table_names(page))


def test_the_figures_name_command_machine_and_date(tables: ModuleType) -> None:
    for name, result in tables.load_results().items():
        assert result["command"].startswith("python benchmarks/"), name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"]), name
        assert {"processor", "num_cores", "num_threads", "torch", "load_average"} <= set(result["machine"]), name
        assert not re.search(r"(?<![\w.])/(tmp|home|work|usr)/", json.dumps(result)), name


def test_a_changed_figure_changes_the_page_and_nothing_else(tables: ModuleType) -> None:
    columns = [tables.Column("name", "candidate"), tables.Column("rate", "images/s", ",.1f"),
               tables.Column("accuracy", "accuracy", ".1%", mean=True)]  # fmt: skip
    rows = [{"name": "ours", "rate": [1000.0, 3000.0, 1200.0], "accuracy": [0.5, 0.75]}, {"name": "theirs", "rate": 7}]
    machine = {"device": "cpu", "device_name": "x86_64", "processor": "P", "num_cores": 2, "num_threads": 1,
               "load_average": 0.25, "torch": "2.0", "timm": None}  # fmt: skip
    result = {
        **tables.make_result("batch 8", columns, rows, ["a note"]), "command": "python benchmarks/a.py",
        "date": "2026-01-01", "machine": machine,
    }  # fmt: skip
    page = "before\n<!-- table: a -->\nold\n<!-- end -->\n<!-- table: b -->\n<!-- end -->\nafter\n"
    expected = """before
<!-- table: a -->

`python benchmarks/a.py`: batch 8. P, 2 cores, threads: 1, load average 0.2, torch 2.0, 2026-01-01.

| candidate | images/s | accuracy |
| --- | ---: | ---: |
| ours | 1,200.0 (1,000.0 to 3,000.0) | 62.5% (standard deviation 17.7%) |
| theirs | 7.0 |  |

* a note

<!-- end -->
<!-- table: b -->
<!-- end -->
after
"""
    assert tables.fill(page, {"a": result}) == expected
    assert tables.fill(expected, {"a": result}) == expected


def test_every_benchmark_of_the_suite_has_a_script_and_a_place(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = _load("suite", monkeypatch)
    names = [benchmark.name for benchmark in suite.BENCHMARKS]
    assert len(set(names)) == len(names)
    tables_of_page = set(tables.table_names(tables.PAGE.read_text(encoding="utf-8")))
    gpu_tables = {name for name in tables_of_page if name.startswith("gpu-")}  # of gpu.sh, which the suite does not run
    assert set(names) == tables_of_page - gpu_tables
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "gpu"))
    assert gpu_tables <= {f"gpu-{name}" for name in _load("run", monkeypatch).PARTS}
    values = {name: f"FOLDER/{name}" for name in suite.DATA} | {"output": "OUTPUT"}
    for benchmark in suite.BENCHMARKS:
        assert (ROOT / benchmark.arguments(values)[0]).is_file(), benchmark.name
        assert "{" not in " ".join(benchmark.arguments(values, benchmark.quick)), benchmark.name


def test_the_suite_skips_what_has_no_data_and_refuses_unknown_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = _load("suite", monkeypatch)
    benchmark = suite.Benchmark("a", "a.py {fashion-mnist}", 1)
    args = suite.argparse.Namespace(quick=True, one_thread=False)
    assert benchmark.needed_data == ["fashion-mnist"]
    assert suite.run_all([benchmark], {}, args) == []
    assert "skipped: --fashion-mnist or BENCHMARK_FASHION_MNIST is not given" in capsys.readouterr().out
    assert [each.name for each in suite.select("startup,build")] == ["startup", "build"]
    with pytest.raises(SystemExit, match="not 'nosuch'"):
        suite.select("nosuch")


def test_rows_become_columns_where_a_result_asks_for_it(tables: ModuleType) -> None:
    columns = [tables.Column("name", ""), tables.Column("share", "of the limit", ".0%")]
    rows = [{"name": "a", "share": [0.5, 0.25, 1.0]}, {"name": "b", "share": None}]
    table = tables.render_table(tables.make_result("t", columns, rows, transposed=True))
    assert table == "|  | a | b |\n| --- | ---: | ---: |\n| of the limit | 50% (25% to 100%) |  |"


def test_the_last_row_is_computed_from_the_others(tables: ModuleType) -> None:
    columns = [tables.Column("seed", "seed"), tables.Column("accuracy", "accuracy", ".2f"), tables.Column("why", "why")]
    rows = [{"seed": "0", "accuracy": 0.25, "why": "a"}, {"seed": "1", "accuracy": 0.75, "why": "b"}]
    result = tables.make_result("t", columns, rows, has_mean=True)
    lines = tables.render_table(result).splitlines()
    assert lines[2:] == ["| 0 | 0.25 | a |", "| 1 | 0.75 | b |", "| **mean** | 0.50 (standard deviation 0.35) |  |"]
    assert result["rows"] == rows


@pytest.mark.parametrize(("name", "is_record"), [("speed", False), ("2026-01-01_idea", True)])
def test_the_suite_keeps_figures_in_one_place(
    name: str, is_record: bool, tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = _load("suite", monkeypatch)
    for module, attribute, value in [
        (suite, "ROOT", tmp_path),
        (suite, "LOGS", tmp_path / "logs"),
        (suite, "write_tables", lambda: None),
        (tables, "RESULTS", tmp_path / "results"),
        (tables, "RECORDS", tmp_path / "records"),
    ]:
        monkeypatch.setattr(module, attribute, value)
    benchmark = suite.record(name, 1) if is_record else suite.Benchmark(name, f"{name}.py", 1)
    assert benchmark.is_record is is_record
    script = tmp_path / "benchmarks" / benchmark.command
    script.parent.mkdir(parents=True)
    script.write_text("import sys; print('seen'); open(sys.argv[2], 'w').write('{\"rows\": [1]}')")
    if is_record:
        (tmp_path / "records" / name).mkdir(parents=True)
    assert suite.run(benchmark, {}, "", keep=True)
    assert tables.load_results() == {name: {"rows": [1], "command": f"python benchmarks/{benchmark.command}"}}
    logs = [path.read_text().strip() for path in tmp_path.glob("records/*/log.txt")]
    assert logs == (["seen"] if is_record else [])
