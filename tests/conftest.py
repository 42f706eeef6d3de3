"""Fixtures that several test folders use."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the Hub of the world

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout: configs, datasets and scripts are found from here."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs and real clips beside the checkout; users do not have them."""
    folder = ROOT.parent / "shared"
    if not (folder / "reference").is_dir():
        pytest.skip("reference data (../shared) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def shapes_module():
    """datasets/shapes/prepare.py, which is no package and is loaded by its path."""
    sys.path.insert(0, str(ROOT / "datasets/shapes"))  # as when it runs: it imports drawing.py
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "datasets/shapes/prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shapes(shapes_module, tmp_path_factory) -> Path:
    """A small made data set of moving shapes: 32 training and 16 validation clips."""
    out = tmp_path_factory.mktemp("data") / "shapes"
    shapes_module.prepare(out, train=32, validation=16, workers=1)
    return out


@pytest.fixture(scope="module")
def starter():
    """Starts ranks, for all tests of a file."""
    from several import Starter

    with Starter() as starter:
        yield starter


@pytest.fixture
def deaths_noticed_soon(monkeypatch):
    """torch asks every five seconds whether a worker has died: here it asks more often."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Iterator

    monkeypatch.setattr(Iterator._try_get_data, "__defaults__", (0.25,))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Output of a test that names files of any bytes goes to other processes as UTF-8."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report
