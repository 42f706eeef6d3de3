"""The run scripts, with a Python and a pip that only write down what is asked of them."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

SCRIPTS = (
    *("run_pretrain.sh", "run_finetune.sh", "run_tests.sh"),
    *(".ci/run", "scripts/environment.sh", "scripts/lowest.py"),
)
TOOLS = (
    *("bash", "basename", "cat", "cksum", "cp", "dirname", "grep"),
    *("mkdir", "rm", "sed", "tail", "tee"),
)
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")

# Stands for every interpreter: answers what the scripts ask, makes "environments" with a copy of
# itself inside, and writes each call into $CALLS.
STAND_IN = """#!/bin/bash
printf '%s' "$(basename "$(dirname "$(dirname "$0")")")" >> "$CALLS"
printf ' [%s]' "$@" >> "$CALLS"
echo >> "$CALLS"
case "$1 $2" in
    "--version ") echo "Python 3.12.1" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && basename "$0" > "$3/made_by" ;;
    "-m pip") [[ ! -e $CALLS.pip_fails ]] || { echo "ERROR: no such package"; exit 1; }
              echo "Collecting torch>=2.6 (from videohpm)" ;;
    "-c import ensurepip"*) [[ ! -e $CALLS.no_pip ]] && case $0 in
        *.1?) echo "30${0##*.}" ;;
        *) echo 3012 ;;
    esac ;;
    "-c import torch"*) echo "${GPUS:-0}" ;;
    "scripts/lowest.py "*) echo "torch==2.8" ;;
    "-m pytest") [[ ! -e $CALLS.tests_fail ]] ;;
    "- "*) cat > /dev/null; [[ -e $(dirname "$0")/complete ]] ;;  # is all there to run or test?
esac
"""


class Checkout:
    """A copy of the scripts in a folder with a space in its name."""

    def __init__(self, folder: Path, root: Path):
        self.root, self.calls_file = folder / "a checkout", folder / "calls"
        for name in (*SCRIPTS, "setup.py", "pyproject.toml", "README.md"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, self.root / name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in [
            "bash",
            "basename",
            "cat",
            "cksum",
            "cp",
            "dirname",
            "grep",
            "mkdir",
            "rm",
            "sed",
            "tail",
            "tee",
        ]:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for version in ("3", "3.10", "3.11", "3.12", "3.13"):
            self.stand_in(self.bin / f"python{version}")

    def stand_in(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(STAND_IN)
        file.chmod(0o755)

    def run(self, script: str, *arguments: str, cwd: Path | None = None, **environment: str):
        return subprocess.run(
            ["bash", str(self.root / script), *arguments],
            cwd=cwd or self.root.parent,
            env={"PATH": str(self.bin), "CALLS": str(self.calls_file), **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def calls(self) -> list[str]:
        """What was asked of the stand-ins since the last call of this."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return [line.replace(str(self.root), "ROOT") for line in lines]

    def config(self) -> str:
        file = self.root.parent / "my recipe.yaml"
        file.touch()
        return file.name


@pytest.fixture
def checkout(tmp_path, root) -> Checkout:
    return Checkout(tmp_path, root)


TRAIN = ".venv [-m] [videohpm] [pretrain] [--config] [my recipe.yaml] [--optim.base_lr] [1e-4]"
PIP = ".venv [-m] [pip] [install] [--progress-bar] [off] [--disable-pip-version-check] [-e] [{}]"


def train(checkout: Checkout, **environment: str):
    return checkout.run(
        "run_pretrain.sh", checkout.config(), "--optim.base_lr", "1e-4", **environment
    )


@pytest.mark.parametrize("script", [name for name in SCRIPTS if not name.endswith(".py")])
def test_scripts_are_well_formed_and_can_be_started(root, script):
    assert subprocess.run(["bash", "-n", str(root / script)]).returncode == 0
    assert os.access(root / script, os.X_OK) == (not script.endswith("environment.sh"))


@pytest.mark.parametrize("script", ["run_pretrain.sh", "run_finetune.sh"])
def test_help_and_wrong_arguments_need_no_environment(checkout, script):
    said = checkout.run(script, "--help")
    assert said.returncode == 0 and f"./{script} CONFIG [OVERRIDES]" in said.stdout
    for wrong in ("--optim.base_lr", "missing.yaml"):
        said = checkout.run(script, wrong)
        assert said.returncode == 2 and wrong in said.stderr
    assert checkout.calls() == [] and not (checkout.root / ".venv").exists()


def test_the_first_start_installs_and_the_second_starts_at_once(checkout):
    said = train(checkout)
    assert said.returncode == 0, said.stderr
    assert "    torch" in said.stderr and "Installing videohpm" in said.stderr
    calls = checkout.calls()
    assert PIP.format(".") in calls and calls[-1] == TRAIN
    assert any(call.endswith("[-m] [venv] [ROOT/.venv]") for call in calls)
    assert (checkout.root / ".venv/made_by").read_text() == "python3.13\n"
    assert train(checkout).stderr == ""
    assert [call for call in checkout.calls() if "import torch" not in call][-1] == TRAIN
    assert (checkout.root / ".venv/videohpm-installed").exists()


def test_a_failed_installation_is_not_taken_for_a_complete_one(checkout, tmp_path):
    (tmp_path / "calls.pip_fails").touch()
    said = train(checkout)
    assert said.returncode == 1 and "ERROR: no such package" in said.stderr
    assert not any("videohpm" in call and "-m" in call for call in checkout.calls())
    (checkout.root / ".venv/leftover").touch()
    (tmp_path / "calls.pip_fails").unlink()
    assert train(checkout).returncode == 0
    assert PIP.format(".") in checkout.calls()
    assert not (checkout.root / ".venv/leftover").exists()


def test_changed_requirements_and_a_moved_checkout_are_installed_again(checkout):
    train(checkout)
    for change in ("edit", "move"):
        if change == "edit":
            with (checkout.root / "setup.py").open("a") as file:
                file.write("# another version\n")
        else:
            checkout.root = checkout.root.rename(checkout.root.parent / "moved here")
        checkout.calls()
        train(checkout)
        assert PIP.format(".") in checkout.calls()
        train(checkout)
        assert PIP.format(".") not in checkout.calls()


def test_tests_need_more_than_training_and_bring_all_of_it(checkout):
    train(checkout)
    checkout.calls()
    (checkout.root / "tests").mkdir()
    assert checkout.run("run_tests.sh", "-k", "two words").returncode == 0
    calls = checkout.calls()
    assert PIP.format(".[test]") in calls and calls[-1] == ".venv [-m] [pytest] [-k] [two words]"
    assert checkout.run("run_tests.sh").returncode == 0
    assert checkout.calls()[-1].endswith("[--dist] [loadfile] [--no-loadscope-reorder] [tests]")
    assert train(checkout).stderr == ""


def test_the_lowest_versions_have_an_environment_of_their_own(checkout, tmp_path):
    (checkout.root / "tests").mkdir()
    checkout.stand_in(tmp_path / "mine/bin/python")
    (tmp_path / "mine/bin/complete").touch()
    said = checkout.run("run_tests.sh", "--lowest", VIRTUAL_ENV=str(tmp_path / "mine"))
    assert said.returncode == 0, said.stderr
    calls = checkout.calls()
    assert (checkout.root / ".venv-lowest/made_by").read_text() == "python3.10\n"
    assert (checkout.root / ".venv-lowest/lowest.txt").read_text() == "torch==2.8\n"
    pip = PIP.replace(".venv", ".venv-lowest")
    pip = pip.replace("[-e]", "[-r] [ROOT/.venv-lowest/lowest.txt] [-e]")
    assert pip.format(".") in calls
    assert calls[-1].startswith(".venv-lowest [-m] [pytest]")
    assert calls[-1].endswith("[--no-loadscope-reorder] [-m] [not slow] [tests]")
    assert checkout.run("run_tests.sh", "--lowest", "-k", "two words").returncode == 0
    calls = checkout.calls()
    assert pip.format(".") not in calls
    assert calls[-1] == ".venv-lowest [-m] [pytest] [-k] [two words]"


def test_ci_fails_where_any_of_its_parts_does(checkout, tmp_path):
    (checkout.root / "tests").mkdir()
    assert checkout.run(".ci/run").returncode == 0
    calls = checkout.calls()
    for part in ("ruff] [check]", "ruff] [format] [--check]", "pytest]"):
        assert any(part in call and call.startswith(".venv [") for call in calls), part
    assert calls[-1].startswith(".venv-lowest [-m] [pytest]")
    (tmp_path / "calls.tests_fail").touch()
    assert checkout.run(".ci/run").returncode == 1
    assert sum("[pytest]" in call for call in checkout.calls()) == 2  # the second runs all the same
    (tmp_path / "calls.tests_fail").unlink()
    shutil.rmtree(checkout.root / ".venv-lowest")
    (tmp_path / "calls.pip_fails").touch()
    said = checkout.run(".ci/run")
    assert said.returncode == 1 and "ERROR: no such package" in said.stderr
    assert sum("[pytest]" in call for call in checkout.calls()) == 1


def test_the_lowest_versions_are_those_of_setup_py(root, monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    runpy.run_path(str(root / "setup.py"))
    said = subprocess.run(
        [sys.executable, "-S", "scripts/lowest.py"], cwd=root, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    lowest = {need.name: need for need in map(Requirement, said.stdout.splitlines())}
    needs = list(map(Requirement, given["install_requires"]))
    tests = list(map(Requirement, given["extras_require"]["test"]))
    assert set(lowest) == {need.name for need in needs + tests}
    for need in needs + [need for need in tests if need.name not in {n.name for n in needs}]:
        assert str(lowest[need.name].specifier) == str(need.specifier).replace(">=", "==")
        assert str(lowest[need.name].marker) == str(need.marker)


@pytest.mark.parametrize("need", ["torch", "torch<3", "torch>=2.8,<3", "torch~=2.8"])
def test_a_dependency_without_a_lowest_version_is_refused(checkout, need):
    setup = checkout.root / "setup.py"
    setup.write_text(re.sub('"torch>=[^"]*"', f'"{need}"', setup.read_text()))
    said = subprocess.run(
        [sys.executable, "scripts/lowest.py"], cwd=checkout.root, capture_output=True, text=True
    )
    assert said.returncode == 1 and f"setup.py: '{need}'" in said.stderr


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_is_used_where_it_has_all(checkout, tmp_path, variable):
    mine = tmp_path / "mine"
    checkout.stand_in(mine / "bin/python")
    said = train(checkout, **{variable: str(mine)})
    assert f"{mine} lacks" in said.stderr and checkout.calls()[-1] == TRAIN
    shutil.rmtree(checkout.root / ".venv")
    (mine / "bin/complete").touch()
    assert train(checkout, **{variable: str(mine)}).stderr == ""
    assert checkout.calls()[-1] == TRAIN.replace(".venv", "mine")
    assert not (checkout.root / ".venv").exists()


def test_an_environment_made_by_hand_is_kept(checkout):
    checkout.stand_in(checkout.root / ".venv/bin/python")
    (checkout.root / ".venv/bin/complete").touch()
    assert train(checkout).stderr == ""
    calls = checkout.calls()
    assert calls[-1] == TRAIN and PIP.format(".") not in calls


def test_without_a_suitable_python_the_message_says_so(checkout, tmp_path):
    (tmp_path / "calls.no_pip").touch()
    said = train(checkout)
    assert said.returncode == 2 and "no Python 3.10 or newer" in said.stderr
    (tmp_path / "calls.no_pip").unlink()
    assert train(checkout).returncode == 0


def test_all_gpus_are_used(checkout):
    train(checkout, GPUS="4")
    assert checkout.calls()[-1] == TRAIN.replace("[videohpm]", "[videohpm.launch] [4]", 1)


def test_the_demos_run_in_the_checkout_and_say_what_to_look_at(checkout, tmp_path):
    said = checkout.run("run_finetune.sh")
    assert said.returncode == 2 and "run ./run_pretrain.sh first" in said.stderr
    said = checkout.run("run_pretrain.sh")
    assert said.returncode == 0, said.stderr
    assert checkout.calls()[-2:] == [
        ".venv [datasets/shapes/prepare.py] [--out] [data/shapes]",
        ".venv [-m] [videohpm] [pretrain] [--config] [configs/pretrain/demo.yaml]"
        " [--run.dir] [runs/demo]",
    ]
    for part in ("metrics.jsonl", "pictures/", "tensorboard", "runs/demo", "./run_finetune.sh"):
        assert part in said.stdout
    (checkout.root / "runs/demo").mkdir(parents=True)
    said = checkout.run("run_finetune.sh")
    assert said.returncode == 0 and "runs/demo-finetune" in said.stdout
    assert checkout.calls()[-1].endswith("[--run.dir] [runs/demo-finetune]")
