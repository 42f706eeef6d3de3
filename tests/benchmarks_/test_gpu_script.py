"""benchmarks/gpu.sh runs to its end without a GPU, and does no part twice."""

import json
import os
import subprocess
import sys

import pytest

PARTS = ("tests", "stages", "compile", "memory", "resume", "step-small", "step-base", "step-large")


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """run(*words) → what the script printed; and its folder."""
    out = tmp_path_factory.mktemp("gpu")
    environment = os.environ | {
        "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def run(*words):
        command = [root / "benchmarks/gpu.sh", "--tiny", "--out", out, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run, out


@pytest.mark.slow  # every part is a process that imports torch
def test_all_parts_come_to_their_end_on_a_cpu_and_are_done_once(run):
    script, out = run
    (out / "compile.json").write_text("")  # one that was cut off
    done = script()
    assert done.returncode == 0, done.stdout + done.stderr
    found = {part: json.loads((out / f"{part}.json").read_text()) for part in PARTS}
    assert all(part["machine"]["tiny"] for part in found.values())
    assert set(found["stages"]["losses"]) == {"plain", *(f"stage {stage}" for stage in range(4))}
    assert found["resume"]["apart"] == 0  # on a CPU
    assert found["step-base"]["eager"]["cases"][0]["arms"].keys() >= {"plain", "hpm", "published"}
    table = (out / "README.md").read_text()
    assert table.startswith(f"# {found['tests']['machine']['device']}\n")
    assert "no measurements" in table
    for word in ("| resume | passed", "| stages | passed", "clips/s", "of data sheet"):
        assert word in table
    times = {file: file.stat().st_mtime_ns for file in out.glob("*.json")}
    again = script()
    assert again.returncode == 0
    assert again.stdout.count("done before") == len(PARTS)
    assert times == {file: file.stat().st_mtime_ns for file in out.glob("*.json")}


def test_a_part_that_fails_is_named_and_the_others_are_done(run):
    script, out = run
    before = set(out.glob("*.json"))
    done = script("no-such-part")
    assert done.returncode == 1
    assert "no-such-part: failed" in done.stdout
    assert set(out.glob("*.json")) == before


def test_rates_are_compared_with_the_data_sheet_of_the_device(benchmarks_on_path):
    from gpu_table import peak_of

    assert peak_of("NVIDIA H100 80GB HBM3", "base bf16") == 989e12
    assert peak_of("NVIDIA GeForce RTX 4090", "base fp32") == 82.6e12
    assert peak_of("Tesla V100-SXM2-32GB", "base bf16") is None
    assert peak_of("x86_64", "toy fp32") is None
