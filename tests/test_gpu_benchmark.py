"""The benchmark of a GPU: it runs without one, and its figures are put together rightly."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import time
import types

import pytest

from tests.benchmark_scripts import (  # noqa: F401, fixtures
    FOLDER,
    SMALL,
    importable,
    own_stand_ins,
    small_side,
)


@pytest.mark.usefixtures("own_stand_ins")
def test_the_gpu_script_counts_without_a_gpu(capsys):
    gpu = importlib.import_module("gpu")
    assert gpu.main(["--hlo", "--tiny", "--networks", "SphereFaceNet-4"]) == 0
    assert "| SphereFaceNet-4 | bfloat16 | " in capsys.readouterr().out
    sampled = ["--sample-rate", "0.3", "--networks", "SphereFaceNet-4", "--classes", "77"]
    assert gpu.main(["--hlo", "--tiny", *sampled]) == 0  # the whole update
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| SphereFaceNet-4 | bfloat16 | ")
    assert row.endswith(" | 1 | 0 |")  # one sort, of the batch's labels; no copy of a table


@pytest.mark.slow
def test_the_gpu_script_measures_a_part_on_a_cpu(tmp_path):
    """Without PyTorch its rows say so; with it they have figures."""
    report = tmp_path / "gpu.json"
    command = [sys.executable, str(FOLDER / "gpu.py"), "nets", "--tiny", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(report.read_text())
    assert {row["part"] for row in rows} == {"nets"}
    for row in rows:
        if row["variant"].startswith("PyTorch"):
            assert row.get("error", "PyTorch is not installed") == "PyTorch is not installed"
        else:
            assert row["milliseconds"] > 0, row
            assert "share" not in row  # a CPU's limit is not known
    assert rows[0]["cached_first_step_seconds"] > 0
    assert "| SphereFaceNet-4, float32 | ours, XLA | " in done.stdout


@pytest.mark.parametrize("part", ["heads", "input"])
def test_the_other_parts_do_their_steps(part, tmp_path, monkeypatch):
    """The tasks that the script has done in processes, here in this one."""
    import gpu
    import gpu_table
    from gpu_cases import KERAS, TINY
    from gpu_turns import Result

    side = importlib.import_module(f"with_{KERAS}")
    written = []

    class Preparing:
        """Writes the faces here, and not in a process."""

        @staticmethod
        def preparing(task, options):
            written.append(task)
            getattr(side, task)(**options)
            return contextlib.nullcontext(types.SimpleNamespace(stop=lambda: None))

    monkeypatch.setattr(gpu, "Worker", Preparing)
    cases = gpu.cases_of(part, TINY, "", str(tmp_path))  # no cache: it is the process's
    assert written == ["faces"] * (part == "input")
    results = []
    for case in cases:
        for variant in case.variants:
            if variant.side == KERAS and variant.task != "network":  # that is of `nets`
                step = getattr(side, variant.task)(**variant.options)
                turns = [1e-3 + float(step()) for _ in range(2)]
                results.append(Result(case, variant, turns=turns, facts=side.device()))
    rows = gpu_table.rows(results)
    assert {row["part"] for row in rows} == {part}
    assert all(row["milliseconds"] > 0 and "share" not in row for row in rows)
    last = {"heads": "ours, a tenth", "input": "fit, pack"}[part]
    assert f" | {last} | " in gpu_table.tables(rows)


@pytest.mark.usefixtures("small_side")
def test_a_side_that_fails_or_hangs_is_named_and_the_rest_goes_on():
    import gpu_table
    import gpu_turns
    from cards import Work
    from cases import Variant
    from gpu_cases import GpuCase

    def variant(name, task, **options):
        return Variant(name, SMALL, task, options)

    good = variant("good", "product", size=4, dtype="float32")
    bad = variant("bad", "product", wrong=1)
    work = {"": Work(1e6, 1e3, "float32")}
    case = GpuCase("heads", "a case", (good, bad), work=work, held=8.0)
    limits = gpu_turns.Limits(memory=20.0, seconds=0.0, rounds=2)
    kept: list[list[gpu_turns.Result]] = []
    done, failed = gpu_table.rows(gpu_turns.measure([case], limits, kept.append))
    assert done["milliseconds"] > 0
    assert [len(found) for found in kept] == [2]
    assert "unexpected keyword argument 'wrong'" in failed["error"]
    limits.torch_python = "/no/such/python"
    elsewhere = Variant("theirs", "torch_gpu", "head", {})
    (absent,) = gpu_turns.measure([GpuCase("heads", "a case", (elsewhere,))], limits)
    assert "/no/such/python" in absent.error
    limits.warm = 0.1
    hanging = variant("hanging", "sleep", seconds=300.0)  # however fast its process starts
    (late,) = gpu_turns.measure([GpuCase("heads", "a case", (hanging,))], limits)
    assert late.error == "no first step within 0 s"
    limits.minutes = 0.0
    (never,) = gpu_turns.measure([GpuCase("heads", "a case", (good,))], limits)
    assert never.error == "not measured: the 0 minutes were over"
    text = gpu_table.tables(gpu_table.rows([late, never]))
    assert "| a case | good | not measured: the 0 minutes were over |" in text


def test_a_turn_lasts_as_long_as_asked_whatever_a_step_says_of_itself(monkeypatch):
    import io

    import worker
    from repeated import repeated

    side = importlib.import_module("with_keras")
    step = repeated(lambda: time.sleep(0.001), lambda _: None, 20)
    monkeypatch.setattr(side, "product", lambda: step)
    monkeypatch.setattr(side, "use_threads", lambda count: None)
    monkeypatch.setattr(worker, "bind_to_cores", lambda first, threads: None)
    requests = [{"side": "keras", "task": "product", "options": {}, "threads": 1}]
    requests += [{"seconds": 0.0}, {"seconds": 0.1}, {"stop": True}]
    answers, begun = io.StringIO(), time.perf_counter()
    worker.serve(io.StringIO("\n".join(map(json.dumps, requests))), answers)
    assert time.perf_counter() - begun < 1.0  # a tenth of a second is five calls of 20 steps
    *_, turn, _ = map(json.loads, answers.getvalue().splitlines())
    assert 2 <= len(turn["steps"]) <= 5


def test_only_a_card_whose_rates_are_known_has_a_limit():
    import gpu_table
    from cards import Work
    from cases import Variant
    from gpu_cases import GpuCase
    from gpu_turns import Result

    case = GpuCase("heads", "a case", (), work={"": Work(67e12, 0.0, "float32", tf32=False)})
    known, other = (
        Result(case, Variant("ours", "", "", {}), turns=[2.0], facts={"card": name})
        for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL")
    )
    rows = gpu_table.rows([known, other])
    assert [row.get("share") for row in rows] == [0.5, None]
    assert "; the limit of NVIDIA H100 NVL is not known\n" in gpu_table.tables(rows)


def test_groups_fill_the_card_and_no_process_is_left_out():
    from cases import Variant
    from gpu_cases import GpuCase
    from gpu_turns import Result, groups

    results = [
        Result(GpuCase("nets", "", (), held=held), Variant("", "", "", {}))
        for held in (30, 30, 90, 10, 10)
    ]
    assert [[r.case.held for r in group] for group in groups(results, 64)] == [
        [30, 30],
        [90],
        [10, 10],
    ]


def test_the_least_time_is_that_of_products_or_of_memory():
    from cards import CARDS, Work
    from gpu_cases import head_work, network_work

    card = CARDS["NVIDIA H100 80GB HBM3"]
    assert Work(989e12, 3350e8, "bfloat16").seconds(card) == (1.0, "products")
    assert Work(0.0, 3350e9, "float16").seconds(card) == (1.0, "memory")
    assert Work(67e12, 0.0, "float32", tf32=False).seconds(card) == (1.0, "products")
    assert network_work("SphereFaceNet-20", "bfloat16", 256).seconds(card)[1] == "products"
    assert network_work("MobileFaceNet", "bfloat16", 256).seconds(card)[1] == "memory"
    full, tenth = (head_work(n, 512, tf32=True).seconds(card)[0] for n in (1_000_000, 100_000))
    assert full == pytest.approx(10 * tenth)


def test_the_page_has_the_figures_of_the_model_of_several_gpus():
    import replica_model

    page = (FOLDER.parent / "docs" / "results" / "gpu.md").read_text(encoding="utf-8")
    assert replica_model.expected_table() in page
    assert replica_model.check_table() in page
    # Half a second of compute, 100 bytes that go round a ring of 4 twice but for a quarter.
    assert replica_model.step_seconds(0.5, 4, 50.0, reduced=100.0) == 0.5 + 2 * 75 / 50
    for classes, found in replica_model.partial_fc().items():
        assert found == pytest.approx(replica_model.PUBLISHED[classes], rel=0.02)
