"""The benchmark beside peers, its pure parts: order of turns, figures, targets, tables, the record."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from perf.peers import page, record
from perf.peers.cases import CASES
from perf.peers.figures import Figures, everything, p99, rate, spread, total
from perf.peers.grid import Grid, number
from perf.peers.measure import Plan
from perf.peers.order import order
from perf.peers.record import Described, LeftOut, Memory, Run, Transfers, Turn
from perf.peers.subjects import SUBJECTS, Subject
from perf.peers.subjects.base import Needed
from perf.peers.subjects.tables import direct
from perf.peers.tables import grids
from perf.peers.targets import targets


def turn(subject: str, round_: int, total_s: float = 1.0, *, case: str = "requests", units: float = 1000.0) -> Turn:
    return Turn(
        round=round_,
        case=case,
        subject=subject,
        units=units,
        seconds=0.5,
        total_s=total_s,
        user_s=total_s / 4,
        system_s=total_s * 3 / 4,
        backends_s=1.0,
        clients_s=1.5,
        softirq_s=0.5,
        others_s=1.0,
        p50_ms=1.0,
        p99_ms=total_s * 10,
        errors={},
    )


def run(*turns: Turn, subjects: tuple[str, ...] = ("kpf", "haproxy", "kpf-again", "direct")) -> Run:
    return Run(
        date="2026-01-01T00:00:00+00:00",
        took_s=1.0,
        machine={
            "cpu": "one",
            "cores": 2,
            "memory_gib": 1.0,
            "kernel": "Linux",
            "python": "CPython",
            "load_average": 0.1,
        },
        sysctls={"net.ipv4.ip_forward": "1"},
        rounds=3,
        seconds=0.5,
        rate_per_s=1000.0,
        subjects=[Described(name, name.upper(), "1.0", "how", "10.96.0.1:80", 1) for name in subjects],
        table="table inet peers {}",
        turns=list(turns),
    )


def table(made: Run, title: str) -> Grid:
    return next(grid for grid in grids(Figures(made)) if grid.title.startswith(title))


class TestOrder:
    def test_every_subject_has_one_turn_in_each_case_of_each_round(self) -> None:
        places = list(order({"short": ["a", "b", "c"], "bulk": ["a", "b"]}, rounds=3))
        assert set(Counter(places).values()) == {1}
        assert len(places) == (3 + 2) * 4
        assert [place.round for place in places] == sorted(place.round for place in places)

    def test_nobody_always_comes_after_the_same_other_one(self) -> None:
        places = list(order({"short": ["a", "b", "c", "d"]}, rounds=60))
        pairs = Counter(one.subject + two.subject for one, two in pairwise(places) if one.round == two.round)
        # 183 pairs of 12 kinds
        assert len(pairs) == 12
        assert max(pairs.values()) < 30
        assert places == list(order({"short": ["a", "b", "c", "d"]}, rounds=60))


class TestFigures:
    def test_spread_is_the_median_and_the_quartiles(self) -> None:
        found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
        assert found is not None
        assert (found.low, found.median, found.high, found.count) == (2.0, 3.0, 4.0, 5)

    def test_spread_of_one_and_of_nothing(self) -> None:
        found = spread([7.0])
        assert found is not None
        assert (found.low, found.median, found.high) == (7.0, 7.0, 7.0)
        assert spread([]) is None

    def test_a_ratio_does_not_see_a_machine_that_becomes_slower(self) -> None:
        slowness, costs = {1: 1.0, 2: 3.0, 3: 7.0}, {"kpf": 1.5, "haproxy": 1.0}
        turns = [turn(who, at, cost * slow) for who, cost in costs.items() for at, slow in slowness.items()]
        figures = Figures(run(*turns))
        found = figures.ratio("requests", "kpf", total, to="haproxy")
        assert found is not None
        assert (found.low, found.median, found.high) == pytest.approx((1.5, 1.5, 1.5))
        cpu = figures.of("requests", "kpf", total)
        assert cpu is not None
        assert cpu.high > 2 * cpu.low

    def test_a_turn_with_errors_counts_in_no_figure(self) -> None:
        bad = replace(turn("kpf", 2, 100.0), errors={"ECONNRESET": 3})
        figures = Figures(run(turn("kpf", 1), bad, turn("haproxy", 1), turn("haproxy", 2)))
        for found in (figures.of("requests", "kpf", total), figures.ratio("requests", "kpf", p99, to="haproxy")):
            assert found is not None
            assert found.count == 1
        assert figures.errors("requests", "kpf") == (1, Counter(ECONNRESET=3))

    def test_without_a_process_there_is_no_cpu_but_that_of_all(self) -> None:
        figures = Figures(run(turn("direct", 1, 0.0), turn("kpf", 1)))
        assert figures.of("requests", "direct", total) is None
        assert figures.ratio("requests", "kpf", total, to="direct") is None
        found = figures.of("requests", "direct", everything)
        assert found is not None
        assert found.median == pytest.approx(3.0 / 1000)

    def test_the_user_part_is_of_all_turns_together(self) -> None:
        only_system = replace(turn("kpf", 1, 1.0), user_s=0.0, system_s=1.0)
        half = replace(turn("kpf", 2, 3.0), user_s=1.0, system_s=2.0)
        assert Figures(run(only_system, half)).user_part("requests", "kpf") == pytest.approx(0.25)

    def test_rates_are_units_in_a_second(self) -> None:
        found = Figures(run(turn("kpf", 1, units=300.0))).of("requests", "kpf", rate)
        assert found is not None
        assert found.median == 600.0

    def test_what_others_used_is_told(self) -> None:
        figures = Figures(run(turn("kpf", 1)))
        assert figures.others_part() == pytest.approx(1 / 5)
        assert "20% was of other processes: the machine was not quiet" in page.quietness(figures)
        alone = Figures(run(replace(turn("kpf", 1), others_s=-0.01)))
        assert "0% was of other processes: the machine was quiet" in page.quietness(alone)
        missed = Figures(run(replace(turn("kpf", 1), others_s=-2.0)))
        assert "cannot be told" in page.quietness(missed)

    def test_turns_at_a_fixed_rate_say_nothing_of_others(self) -> None:
        assert Figures(run(turn("kpf", 1, case="fixed-rate"))).others_part() == 0.0

    def test_without_haproxy_kpf_is_what_is_compared_with(self) -> None:
        assert Figures(run(turn("kpf", 1))).base == "haproxy"
        assert Figures(run(turn("kpf", 1), subjects=("kpf", "direct"))).base == "kpf"


class TestTargets:
    @pytest.mark.parametrize(("cost", "met"), [(1.054, True), (1.056, False)])
    def test_a_ratio_is_met_up_to_its_bound_in_two_digits(self, cost: float, met: bool) -> None:
        found = targets(Figures(run(turn("kpf", 1, cost), turn("haproxy", 1))))
        (one,) = [target for target in found if target.what.startswith("CPU per request")]
        assert one.met is met

    def test_both_turns_of_kpf_count(self) -> None:
        found = targets(Figures(run(turn("kpf", 1, 1.0), turn("kpf-again", 1, 1.2), turn("haproxy", 1))))
        (one,) = [target for target in found if target.what.startswith("CPU per request")]
        assert one.figure == pytest.approx(1.1)

    def test_what_was_not_measured_is_neither_met_nor_missed(self) -> None:
        assert {target.met for target in targets(Figures(run()))} == {None}

    def test_memory_sizes_and_transfers(self) -> None:
        made = replace(
            run(),
            memory=[Memory("kpf", 1000, 5_000_000, 5_000_000 + 2000 * 1024, {})],
            transfers=[Transfers("kpf", 100, 1e9, {"stalled": 1, "ECONNRESET": 1})],
            sizes={"kpf": {"master": 99 << 20, "worker 0": 10 << 20, "worker 1": 12 << 20}},
        )
        found = {target.unit: (target.figure, target.met) for target in targets(Figures(made)) if target.unit != "x"}
        assert found == {"KB": (2.0, False), "MB": (12.0, True), "": (2.0, False)}

    def test_memory_of_connections_that_failed_is_no_figure(self) -> None:
        made = replace(run(), memory=[Memory("kpf", 1000, 0, 10, {"ECONNREFUSED": 1})])
        assert not [target for target in targets(Figures(made)) if target.unit == "KB" and target.figure is not None]


class TestTables:
    def test_a_case_has_a_row_for_each_subject_and_one_for_the_noise(self) -> None:
        turns = [
            turn(who, 1, cost) for who, cost in (("kpf", 2.0), ("haproxy", 1.0), ("kpf-again", 3.0), ("direct", 0.0))
        ]
        rows = {row[0]: row[1:] for row in table(run(*turns), CASES["requests"].title).rows}
        assert list(rows) == ["KPF", "HAPROXY", "KPF-AGAIN", "DIRECT", "noise: KPF-AGAIN to kpf"]
        assert rows["KPF"][:4] == ["2,000 (2,000-2,000)", "500", "1,500", "2.00 (2.00-2.00)"]
        assert rows["DIRECT"][:4] == ["-", "-", "-", "-"]
        assert rows["noise: KPF-AGAIN to kpf"][3] == "1.50 (1.50-1.50)"

    def test_errors_are_told_under_the_table(self) -> None:
        bad = replace(turn("kpf", 2), errors={"timed out": 2})
        grid = table(run(turn("kpf", 1), bad), CASES["requests"].title)
        assert grid.rows[0][0] == "KPF †"
        assert grid.notes == ["† KPF: 1 of 3 turns had errors and do not count: 2 timed out."]

    def test_bulk_is_told_per_gib(self) -> None:
        grid = table(run(turn("kpf", 1, 0.25, case="download", units=float(1 << 30))), CASES["download"].title)
        assert grid.rows[0][1:3] == ["250 (250-250)", "62.5"]
        assert grid.rows[0][5] == "2,147"

    def test_what_is_left_out_is_named_with_its_command(self) -> None:
        made = replace(run(), left_out=[LeftOut("nginx stream", "apt install nginx-light")])
        assert table(made, "Left out").rows == [["nginx stream", "apt install nginx-light"]]

    @pytest.mark.parametrize(
        ("value", "text"), [(None, "-"), (1.234, "1.23"), (45.67, "45.7"), (99.96, "100"), (1234.5, "1,234")]
    )
    def test_numbers_have_three_digits(self, value: float | None, text: str) -> None:
        assert number(value) == text

    def test_the_page_has_all_tables_and_plots(self) -> None:
        figures = Figures(run(turn("kpf", 1), turn("haproxy", 1)))
        text = page.markdown(figures, {"CPU": "peers-cpu.png"})
        assert all(f"### {grid.title}" in text for grid in grids(figures))
        assert "![CPU](peers-cpu.png)" in text


class TestRecord:
    def test_a_run_comes_back_from_its_file(self, tmp_path: Path) -> None:
        made = replace(
            run(turn("kpf", 1), replace(turn("direct", 1, 0.0), p50_ms=None)),
            memory=[Memory("kpf", 2000, 1, 2, {})],
            transfers=[Transfers("kpf", 100, 1.5e9, {"stalled": 1})],
            left_out=[LeftOut("nginx", "apt install nginx-light")],
            sizes={"kpf": {"master": 1}},
        )
        record.save(made, tmp_path / "peers.json")
        assert record.load(tmp_path / "peers.json") == made

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "other.json").write_text('{"turns": []}')
        with pytest.raises(ValueError, match="date"):
            record.load(tmp_path / "other.json")


class TestPlan:
    def test_who_lacks_a_package_is_left_out_with_all_it_needs(self) -> None:
        lacking = Subject(
            "x",
            "X",
            direct,
            (Needed("one", lambda: False), Needed("two", lambda: True), Needed("three", lambda: False)),
        )
        plan = Plan([Subject("y", "Y", direct), lacking], ["requests"], 1, 0.1)
        assert [subject.name for subject in plan.present()] == ["y"]
        assert plan.left_out() == [LeftOut("X", "apt install one three")]

    def test_a_subject_may_be_there_for_some_cases_only(self) -> None:
        plan = Plan([Subject("y", "Y", direct), Subject("z", "Z", direct, cases=("upload",))], ["requests"], 1, 0.1)
        assert plan.measured("requests") == ["y"]
        assert plan.measured("upload") == ["y", "z"]

    def test_subjects_have_names_of_their_own_and_known_cases(self) -> None:
        assert len({subject.name for subject in SUBJECTS}) == len(SUBJECTS)
        assert {case for subject in SUBJECTS for case in subject.cases} <= set(CASES)
