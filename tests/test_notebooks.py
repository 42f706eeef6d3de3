"""The notebooks run from the first cell to the last, here with fewer clips and steps."""

import ast
import json
import re

import pytest

NAMES = ("what_the_teacher_sees", "classify_with_frozen_features")


def cells(root, name: str) -> list[str]:
    book = json.loads((root / f"docs/notebooks/{name}.ipynb").read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert all(not cell.get("outputs") for cell in book["cells"])  # nothing of a machine is kept
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


def run(code: str, names: dict):
    """Run a cell; what its last expression gives, as a notebook shows it."""
    *before, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        before, last = [*before, last], None
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    return (
        None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, shown = {}, []
    for code in cells(root, name):
        quick = re.sub(r"CLIPS, STEPS = \d+, \d+", "CLIPS, STEPS = 64, 4", code)
        shown.append(run(quick, names))
    if name == "what_the_teacher_sees":
        assert shown[3].size[0] > 500  # the picture
        assert len(set(shown[4])) == 8 and all(0 <= v < 8 for place in shown[4] for v in place)
        assert 0 < shown[5]["loss"] < 10
    else:
        assert tuple(shown[5]) == (64, 96)
        assert all(one != other for one, other in shown[6])
        measured = json.loads(next((tmp_path / "probe").glob("*.json")).read_text())
        assert measured
