"""What the benchmarks make of Dray's rates and those of its peers: ratios in each repetition, against the peer's best in it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.beside import comparisons
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.install import install, interpreter
from benchmarks.report import Report
from benchmarks.rows import Size, all_rows, chosen
from benchmarks.stamps import made
from benchmarks.workers import spent, waits

ROWS = all_rows()


def reported(**rates: list[float]) -> Report:
    """A report of these rows on PostgreSQL, `_` standing for `-`."""
    report = Report(Size(jobs=20_000, repetitions=3, idle=1.0), {}, {})
    for name, values in rates.items():
        for value in values:
            report.add("postgresql", ROWS[name.replace("_", "-")], {"jobs/s": value}, others=0.5)
    return report


def test_a_ratio_is_the_median_of_what_each_repetition_says_against_the_peers_best() -> None:
    report = reported(drain=[10, 40, 90], pgqueuer_drain=[10, 10, 10], pgqueuer_drain_2=[5, 20, 60])
    (one,) = comparisons(report.series.values())
    assert (one.database, one.row, one.peer) == ("postgresql", "drain", "pgqueuer")
    assert one.peer_rows == ("pgqueuer-drain", "pgqueuer-drain-2")
    assert one.repetitions == (1.0, 2.0, 1.5)
    assert one.ratio == 1.5


def test_one_worker_and_two_are_each_compared_with_each_peer() -> None:
    report = reported(
        drain=[10], drain_2=[20], oban_drain=[5], procrastinate_drain_2=[2], enqueue_one=[3], oban_enqueue_one=[4]
    )
    found = {(one.row, one.peer): one.ratio for one in comparisons(report.series.values())}
    assert found == {
        ("drain", "oban"): 2.0,
        ("drain-2", "oban"): 4.0,
        ("drain", "procrastinate"): 5.0,
        ("drain-2", "procrastinate"): 10.0,
        ("enqueue-one", "oban"): 0.75,
    }


def test_nothing_is_compared_across_databases_or_with_what_was_left_out() -> None:
    report = reported(drain=[10], pgqueuer_drain=[5])
    report.add("redis", ROWS["huey-drain"], {"jobs/s": 5.0}, others=0.0)
    report.leave_out("postgresql", ROWS["pgqueuer-drain"], "a worker ended before its jobs did")
    assert list(comparisons(report.series.values())) == []
    assert report.left_out == ["pgqueuer-drain on postgresql: a worker ended before its jobs did"]


def test_a_round_that_was_cut_short_compares_the_repetitions_that_both_have() -> None:
    (one,) = comparisons(reported(drain=[10, 20], pgqueuer_drain=[5]).series.values())
    assert one.repetitions == (2.0,)


def test_tables_and_json_say_how_many_jobs_and_what_came_of_them(tmp_path: Path) -> None:
    report = reported(raw=[20.0], drain=[10.0], procrastinate_drain=[5.0])
    report.save(tmp_path / "benchmark.json")
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert {row["row"]: (row["jobs"], row["ratio"]) for row in written["rows"]} == {
        "raw": (20_000, None),
        "drain": (20_000, 0.5),
        "procrastinate-drain": (2_000, None),
    }
    assert all(row["repetitions"][0]["others"] == 0.5 for row in written["rows"])
    assert [(one["row"], one["peer"], one["ratio"]) for one in written["beside"]] == [("drain", "procrastinate", 2.0)]
    console = Console(record=True, width=124, file=StringIO())
    report.show(console)
    shown = [line.replace(" ", "") for line in console.export_text().splitlines()]
    assert "│postgresql│drain│procrastinate-drain│2.00│2.00│2.00│" in shown


def test_a_row_brings_what_it_is_compared_with() -> None:
    def names(wanted: list[str], database: str) -> list[str]:
        return [row.name for row in chosen(ROWS.values(), wanted, database)]

    assert names(["enqueue-one"], "sqlite") == ["raw-one", "enqueue-one"]
    assert names(["pgqueuer-drain"], "postgresql") == ["drain", "drain-2", "pgqueuer-drain"]
    assert names(["pgqueuer"], "sqlite") == []
    assert names(["huey"], "redis") == ["huey-drain", "huey-drain-2", "huey-enqueue-one", "huey-latency"]
    assert names([], "mariadb") == names(["dray"], "mariadb")


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb", "redis"])
def test_each_row_runs_where_what_it_is_compared_with_runs(database: str) -> None:
    rows = {row.name: row for row in chosen(ROWS.values(), [], database)}
    assert all(row.raw in rows or database not in ROWS[row.raw].databases for row in rows.values() if row.raw)
    if database != "redis":  # where Dray does not live
        assert all(name in rows for row in rows.values() for name in row.beside)


def test_stamps_say_when_each_job_ran_and_what_its_process_had_cost_by_then() -> None:
    with made(3) as stamps:
        assert stamps.latest == 0
        stamps.mark(1)
        first = stamps.times()[1]
        stamps.mark(0)
        zero, one, two = stamps.times()
        assert (two, one, stamps.latest) == (0, first, zero)
        assert zero >= one > 0
        (spent,) = stamps.begun().values()
        assert spent > 0


def test_a_wait_is_from_just_before_the_call_to_the_first_line_of_the_job() -> None:
    with made(100) as stamps:
        for number in range(100):
            stamps.mark(number)
        sent = [ran - 1_000_000 * (number + 1) for number, ran in enumerate(stamps.times())]
        assert waits(stamps, sent) == pytest.approx({"p50 ms": 50.5, "p95 ms": 95.05, "p99 ms": 99.01})


def test_what_a_worker_spends_while_it_starts_is_not_counted() -> None:
    before = {1: 0.5, 2: 0.25}  # when anybody's first job was seen
    assert spent({1: 2.0, 2: 0.5}, before, begun={1: 1.0}) == 1.25
    assert spent({1: 2.0, 3: 0.5}, before, begun={1: 1.0}) == 1.0  # a process that came later, and runs no job
    assert spent({1: 2.0, 2: 0.5}, before, begun={7: 1.0}) == 0.0  # another's jobs


def test_a_peer_gets_drays_python_where_it_will_do_and_a_reason_where_none_will(tmp_path: Path) -> None:
    assert interpreter((3, 11)) == sys.executable
    assert interpreter((3, 99)) is None
    why = install(replace(PEERS["oban"], floor=(3, 99)), tmp_path)
    assert why == "it needs Python 3.99 or newer, and none was found"
