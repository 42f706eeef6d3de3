"""A short campaign of faults (tests/campaign): what it counts, and that it finds none wrong."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_short_campaign_loses_nothing(root, tmp_path):
    counts = tmp_path / "counts.json"
    command = [sys.executable, root / "tests/campaign", "--faults", "7", "--json", counts]
    for number in (1, 2):  # the second adds to what the first counted
        done = subprocess.run(
            [*command, "--folder", tmp_path / "runs", "--real", "0.2"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(counts.read_text())
        assert sum(found["faults"].values()) >= 7 * number
    last = done.stdout.splitlines()[-1]
    assert last.endswith("0 lost steps, 0 differing values, 0 hangs, 0 wrong ends")
    assert last.startswith(f"{sum(found['faults'].values())} faults (")
    assert sum(found["works"].values()) == sum(found["faults"].values())
