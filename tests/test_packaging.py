"""What `pip install .` installs, and that it asks for all that the package imports."""

import ast
import email.policy
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PYTHON = "Programming Language :: Python :: "
# Import names that are not the name of the package which brings them.
PACKAGE_OF = {"yaml": "PyYAML", "PIL": "pillow", "sklearn": "scikit-learn"}


@pytest.fixture
def setup_arguments(root, monkeypatch) -> dict:
    """What setup.py hands to setuptools."""
    arguments = {}
    monkeypatch.chdir(root)
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    runpy.run_path("setup.py")
    return arguments


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages(folder: Path) -> set[str]:
    """The top-level names that the Python files under a folder import, standard library aside."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    rooms = (folder, folder.parent / "benchmarks", folder.parent / "datasets")
    own = {file.stem for room in rooms for file in room.rglob("*.py")}
    return names - set(sys.stdlib_module_names) - own - {"videohpm"}


def declared(requirements: list[str]) -> set[str]:
    return {normal(Requirement(line).name) for line in requirements}


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    """The built wheel, opened."""
    place = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(root / name, place)
    for name in ("videohpm", "tests", "datasets", "benchmarks", "configs", "scripts"):
        if (root / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.mp4")
            shutil.copytree(root / name, place / name, ignore=ignore)
    (place / "datasets/__init__.py").parent.mkdir(exist_ok=True)
    (place / "datasets/__init__.py").touch()  # even then it stays out
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel"],
        cwd=place,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    (file,) = (place / "dist").glob("videohpm-*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


def test_the_package_holds_all_of_videohpm_and_nothing_else(root, wheel):
    built = {Path(name) for name in wheel.namelist() if ".dist-info/" not in name}
    source = {f.relative_to(root) for f in (root / "videohpm").rglob("*") if f.is_file()}
    shipped = {f.relative_to(root) for name in ("configs", "datasets")
               for f in (root / name).rglob("*") if f.is_file() and f.suffix != ".mp4"}  # fmt: skip
    expected = source | {Path("videohpm/shipped") / f for f in shipped}
    assert built == {f for f in expected if f.suffix != ".pyc"}
    assert Path("videohpm/py.typed") in built  # type checkers believe our annotations


def test_without_a_clone(root, wheel, tmp_path):
    """What was built, alone in a folder: recipes and data sets are found from anywhere."""
    wheel.extractall(tmp_path / "site")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "videohpm", *arguments], cwd=tmp_path, capture_output=True,
            text=True, stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = run("pretrain", "--config", "configs/pretrain/demo.yaml", "--print_config")
    recipe = yaml.safe_load(printed)
    assert recipe["model"]["dim"] == 96 and recipe["dataset"] == "datasets/shapes"
    run("data", "prepare", "shapes", "--train", "2", "--validation", "2", "--out", "made")
    assert (tmp_path / "made/train/00001.mp4").is_file()
    home = run("data", "prepare", "--help")
    assert "kinetics400" in home and "shapes" in home


def test_the_source_distribution_can_build_that_wheel(root):
    """Its manifest names the folders that the wheel copies."""
    named = (root / "MANIFEST.in").read_text()
    assert {"graft configs", "graft datasets"} <= set(named.splitlines())


def test_a_package_index_has_something_to_show(root, wheel, setup_arguments):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    shown = email.message_from_bytes(wheel.read(name), policy=email.policy.default)
    assert shown["Name"] == "videohpm" and shown["Version"] == setup_arguments["version"]
    assert shown["Author"] == "videohpm contributors"
    assert shown["License-Expression"] == "Apache-2.0" and shown["License-File"] == "LICENSE"
    assert shown["Description-Content-Type"].startswith("text/markdown")
    text = shown.get_payload(decode=True).decode()
    assert text.strip() == (root / "README.md").read_text(encoding="utf-8").strip()
    assert len(shown["Summary"]) > 20 and "masked autoencoder" in shown["Keywords"].split(",")
    kinds = shown.get_all("Classifier")
    oldest = SpecifierSet(shown["Requires-Python"])
    versions = [kind.rpartition(" ")[2] for kind in kinds if kind.startswith(PYTHON + "3.")]
    assert versions and all(version in oldest for version in versions)
    assert "Typing :: Typed" in kinds
    # The license is named once, as an expression.
    assert not any(kind.startswith("License ::") for kind in kinds)


def test_our_datasets_folder_is_no_package(root):
    assert not list((root / "datasets").rglob("__init__.py"))


def test_everything_imported_is_asked_for(root, setup_arguments):
    """By the package, or by one of its extras; test_layers.py has optional ones imported late."""
    extras = setup_arguments["extras_require"]
    optional = [line for name, lines in extras.items() if name != "test" for line in lines]
    asked = declared(setup_arguments["install_requires"] + optional)
    names = {normal(PACKAGE_OF.get(name, name)) for name in imported_packages(root / "videohpm")}
    assert names <= asked, f"add to setup.py: {sorted(names - asked)}"


def test_everything_the_tests_import_is_asked_for(root, setup_arguments):
    asked = declared(
        setup_arguments["install_requires"] + setup_arguments["extras_require"]["test"]
    )
    names = {normal(PACKAGE_OF.get(name, name)) for name in imported_packages(root / "tests")}
    assert names <= asked, f"add to setup.py, or do without: {sorted(names - asked)}"


@pytest.mark.parametrize(
    ("system", "machine", "decord", "deepspeed"),
    [
        ("linux", "x86_64", True, True),
        ("linux", "aarch64", False, True),
        ("win32", "AMD64", True, False),
        ("win32", "ARM64", False, False),
        ("darwin", "arm64", False, False),
        ("darwin", "x86_64", False, False),
    ],
)
def test_what_has_no_wheels_is_not_asked_for(setup_arguments, system, machine, decord, deepspeed):
    here = {"sys_platform": system, "platform_machine": machine}
    needs = [Requirement(line) for line in setup_arguments["install_requires"]]
    asked = {need.name for need in needs if not need.marker or need.marker.evaluate(here)}
    assert ("decord" in asked, "deepspeed" in asked) == (decord, deepspeed)
    assert {"torch", "av"} <= asked


def test_the_readme_names_the_lowest_versions(root, setup_arguments):
    text = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    (named,) = re.findall(r"lowest versions of `setup\.py`.*?: (.*?)\. ", text)
    lowest = {
        need.name: need.specifier for need in map(Requirement, setup_arguments["install_requires"])
    }
    pairs = [entry.split() for entry in named.split(", ")]
    assert {"torch", "torchvision", "timm", "av", "deepspeed"} <= {name for name, _ in pairs}
    for name, version in pairs:
        assert str(lowest[name]) == f">={version}", name


def test_the_version_is_in_one_place_and_what_cites_it_agrees(root, setup_arguments):
    version = setup_arguments["version"]
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
    files = [root / "pyproject.toml", *(root / "videohpm").rglob("*.py")]
    assert [f for f in files if f'"{version}"' in f.read_text(encoding="utf-8")] == []


def test_python_m_videohpm_is_the_command(root):
    done = subprocess.run(
        [sys.executable, "-m", "videohpm", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout
