import sys

import pytest


@pytest.fixture(scope="module")
def benchmarks_on_path(root):
    """The files of benchmarks/, which is no package, can be imported."""
    place = str(root / "benchmarks")
    sys.path.insert(0, place)
    yield
    sys.path.remove(place)
