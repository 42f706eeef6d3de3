"""Fixtures that several test folders use."""

from pathlib import Path

import pytest

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
