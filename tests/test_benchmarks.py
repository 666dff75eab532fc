"""The benchmark runs on this library's side alone, and its figures are put together rightly."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.benchmark_scripts import (  # noqa: F401, fixtures
    FOLDER,
    SMALL,
    importable,
    own_stand_ins,
    small_side,
)
from tf_sphereface.backbones import (
    IResNet,
    MobileFaceNet,
    SphereFaceNet,
    count_macs,
    count_parameters,
)


@pytest.mark.slow
def test_own_side_runs_without_torch(tmp_path):
    report = tmp_path / "bench.json"
    command = [sys.executable, str(FOLDER / "compare.py"), "machine", "--side", "keras", "--tiny"]
    options = ["--quick", "--threads", "1", "--json", str(report)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for case in json.loads(report.read_text())["results"]:
        (row,) = case["variants"]
        assert row["name"] == "TensorFlow"
        assert row["error"] is None
        assert row["steps"] >= 2
        assert 0 < row["imported_megabytes"] <= row["peak_megabytes"]
        assert "ratio" not in row
    assert "matrix product 64x64, bfloat16 | TensorFlow | " in done.stdout


def test_own_side_s_tasks_of_head_and_pipeline(tmp_path):
    """As `compare.py` has them done in processes."""
    from cases import head_cases, only, pipeline_cases

    side = importlib.import_module("with_keras")
    side.faces(str(tmp_path), 4, 8)
    cases = [*head_cases((200,), batch=8, width=16), *pipeline_cases(str(tmp_path), 1, batch=8)]
    variants = [variant for case in cases for variant in only(case, "keras").variants]
    names = ["full", "full, XLA", "10 % of the centres", "10 %, centres in host memory"]
    names += ["10 %, centres in files", "face_dataset", "face_dataset, packed"]
    assert [variant.name for variant in variants] == names
    for variant in variants:
        step = getattr(side, variant.task)(**variant.options)
        found = [step(), step()]
        if variant.task == "pipeline":
            assert all(images.shape == (8, 112, 96, 3) for images, _ in found)
        else:
            assert all(math.isfinite(float(value)) for value in found)


def test_search_is_timed_and_its_errors_counted(tmp_path, capsys):
    from tests.search.people import people

    search = importlib.import_module("search")
    options = ["--rows", "2000", "--dim", "16", "--batches", "1", "4", "--k", "3", "--quick"]
    assert search.main(["speed", *options, "--json", str(tmp_path / "speed.json")]) == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert set(result["agreement"].values()) == {1.0}
    assert {"numpy", "float32", "int8"} <= set(result["batches"]["4"])
    recall = result["graphs"]["recall"]
    assert recall["usearch graph"]["enrolled"] > 0.98
    if "pgvector scan" in recall:  # a server could be started
        assert recall["pgvector scan"] == {"random": 1.0, "enrolled": 1.0}
        assert recall["pgvector graph"]["enrolled"] > 0.99
    assert "| int8 |" in capsys.readouterr().out
    vectors, names = people(260, 6)
    paths = [f"{name}/{k}.jpg" for k, name in enumerate(names)]
    np.savez(tmp_path / "faces.npz", paths=paths, embeddings=vectors)
    options = ["--people", "80", "--strangers", "60", "--draws", "2", "--rate", "0.03"]
    search.main(["identify", str(tmp_path / "faces.npz"), *options, "--json", str(tmp_path / "i")])
    result = json.loads((tmp_path / "i").read_text())
    for origin in ("people", "strangers"):
        assert 0 <= result[origin]["false"]["mean"] < 0.05
        assert 0 <= result[origin]["missed"]["mean"] < 0.5


@pytest.mark.usefixtures("small_side")
def test_a_failing_variant_is_named_and_the_others_go_on():
    from cases import Case, Variant
    from compare import measure, summarise
    from table import tables

    work = {"size": 4, "dtype": "float32"}
    case = Case(
        "machine",
        "a case",
        (
            Variant("good", SMALL, "product", work),
            Variant("bad", SMALL, "product", {"wrong": 1}),
        ),
    )
    result = summarise(case, measure(case, threads=1, rounds=2, seconds=0.0))
    good, bad = result["variants"]
    assert (good["error"], good["steps"]) == (None, 2)
    assert "unexpected keyword argument 'wrong'" in bad["error"]
    machine = {"processor": "a", "threads": 1, "python": "3", "load_before": 0.0}
    text = tables({"machine": machine, "results": [result]})
    assert "| a case | bad | failed: exit code 1: " in text


def test_ratios_are_medians_over_turns_against_the_best_of_the_other_side():
    from cases import Case, Variant
    from compare import Timing, summarise
    from table import tables

    case = Case(
        "train",
        "net",
        (
            Variant("ours", "keras", "train", {}, 1.5),
            Variant("slow", "torch", "train", {}),
            Variant("fast", "torch", "train", {}),
        ),
        per_step=10,
        unit="images",
        gigaflop=3.0,
    )
    seconds = {
        "ours": [[1.0, 9.0, 1.0], [2.0], [1.0]],  # the second turn met a busy machine
        "slow": [[8.0], [8.0], [8.0]],
        "fast": [[2.0], [8.0], [3.0]],
    }
    timings = {
        name: Timing([[[wall, wall / 2] for wall in turn] for turn in turns], 100.0, 200.0)
        for name, turns in seconds.items()
    }
    ours, slow, fast = summarise(case, timings)["variants"]
    assert ours["against"] == "fast"
    assert ours["ratios"] == [2.0, 4.0, 3.0]
    assert ours["ratio"] == 3.0
    assert ours["images_per_second"] == 10.0
    assert ours["gigaflops"] == 3.0
    assert ours["cpu_milliseconds"] == 500.0
    assert "ratio" not in slow
    assert fast["milliseconds"] == 3000.0
    machine = {"processor": "a", "threads": 1, "python": "3", "load_before": 0.0}
    report = {"machine": machine, "results": [summarise(case, timings)]}
    assert "| net | ours | 10 | 500 | 3 | 200 | 3.00 | 2.00 to 4.00 | 1.5: met |" in tables(report)


def test_peak_memory_is_the_process_s_own():
    """A small process that a large one starts: `ru_maxrss` would say what the large one took."""
    ballast = b"x" * 300_000_000
    code = "import worker; print(worker.peak_memory())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER, check=True
    )
    peak = float(done.stdout)
    assert len(ballast) == 300_000_000
    assert math.isnan(peak) or 1 < peak < 100


def test_multiplications_are_those_of_the_networks():
    import hlo
    from cases import MACS, image_size
    from gpu_cases import MAP_VALUES

    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    networks = {name: hlo.NETWORKS[name](input_shape=(*image_size(name), 3)) for name in MACS}
    assert {name: count_macs(network) for name, network in networks.items()} == MACS
    assert {
        name: sum(math.prod(x.output.shape[1:]) for x in network.layers if isinstance(x, kinds))
        for name, network in networks.items()
        if name in MAP_VALUES
    } == MAP_VALUES


@pytest.mark.usefixtures("own_stand_ins")
@pytest.mark.parametrize(
    ("network", "depthwise", "instructions", "reductions"),
    [
        ("SphereFaceNet-20", "grouped", 1550, 40),
        ("MobileFaceNet", "grouped", 5500, 100),
        ("MobileFaceNet", "shifted", 10_500, 200),
    ],
)
def test_a_step_stays_short_to_compile(network, depthwise, instructions, reductions):
    """Of Keras' own layers it has 1,739 and 9,887 instructions, 36 and 242 reductions."""
    import hlo

    hlo.use_depthwise(depthwise)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = hlo.classifier(network, 10_575, (112, 96))
    found = hlo.counts(hlo.step_program(model, batch=8), 10_575)
    assert found["instructions"] <= instructions
    assert found["reductions"] <= reductions
    grouped = {"grouped": 48, "shifted": 0}[depthwise]
    assert found["of them grouped"] == (grouped if network == "MobileFaceNet" else 0)
    assert found["sorts"] == found["copies of tables"] == 0


def test_sorts_and_copies_of_tables_are_seen():
    import hlo

    program = """HloModule step
      %a.1 = f32[8,500]{1,0} parameter(0), metadata={op_name="sort(x)"}
      %b.1 = f32[8,500]{1,0} copy(f32[8,500]{1,0} %a.1)
      %c.1 = f32[8,50]{1,0} copy(f32[8,50]{1,0} %a.1)
      %d.1 = (f32[8,500]{1,0}, s32[8,500]{1,0}) sort(f32[8,500]{1,0} %b.1, s32[8,500]{1,0} %i.1)
      ROOT %e.1 = f32[8]{0} reduce(f32[8,500]{1,0} %b.1, f32[] %z.1), dimensions={1}
    """
    found = hlo.counts(program, 500)
    assert found["instructions"] == 5
    assert (found["sorts"], found["reductions"], found["copies of tables"]) == (1, 1, 1)


@pytest.mark.slow
def test_training_task_trains():
    task = importlib.import_module("with_keras").train
    step = task("SphereFaceNet-4", "bfloat16", batch=2, num_classes=3)
    assert math.isfinite(float(step()))


def test_torch_has_the_same_networks():
    pytest.importorskip("torch")
    side = importlib.import_module("with_torch_gpu")
    for theirs, ours in (
        (side.NETWORKS["SphereFaceNet-20"](), SphereFaceNet(20)),
        (side.NETWORKS["SphereFaceNet-64"](), SphereFaceNet(64)),
        (side.NETWORKS["MobileFaceNet"](), MobileFaceNet()),
        (side.NETWORKS["IResNet-50"](), IResNet(50)),
    ):
        network, width = theirs
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert trained == count_parameters(ours)
        assert width == ours.output_shape[-1]


def test_ways_of_a_processor_take_turns_and_are_told_as_ratios(monkeypatch, capsys, tmp_path):
    import processor

    started = []

    class Pretended:
        """A process whose steps take as long as its type and variables say."""

        def __init__(self, variant, threads, first_core=0, environment=None):
            dtype = variant.options["dtype"]
            slow = 2.0 if environment == {"TF_ENABLE_ONEDNN_OPTS": "0"} else 1.0
            self.seconds = slow * (7.0 if dtype == "bfloat16" else 1.0) * 1.6 / threads
            started.append((threads, first_core))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, seconds, drain=0):
            return [[self.seconds, 0.0]] * 3

    monkeypatch.setattr(processor, "Worker", Pretended)
    report = tmp_path / "processor.json"
    options = ["--networks", "SphereFaceNet-4", "--threads", "2", "--rounds", "2"]
    assert processor.main([*options, "--json", str(report)]) == 0
    assert started == [(2, 0)] * 4 + [(1, 0), (1, 1)]
    rows = json.loads(report.read_text())["rows"]
    assert {row["way"]: row["ratio"] for row in rows} == {
        "float32, oneDNN": 1.0,
        "float32, without oneDNN": 2.0,
        "bfloat16, oneDNN": 7.0,
        "one on all cores": 1.0,
        "one per core": 1.0,  # each half as fast as the one, and two of them
    }
    assert "| SphereFaceNet-4, batch 64 | bfloat16, oneDNN | 5600 | 7.00 | 7.00 to 7.00 |" in (
        capsys.readouterr().out
    )
