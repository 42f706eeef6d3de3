"""benchmarks/loader.py: both forms, every reader that may read them, and the ratios."""

import json
import sys

import pytest

from videohpm.data.readers import READERS


def test_forms_and_readers_side_by_side(benchmarks_on_path, tmp_path, monkeypatch, capsys):
    import loader

    arguments = "--quick --workers 1 --batch 2 --frames 4 --size 32 --height 48 --width 64"
    found = tmp_path / "loader.json"
    monkeypatch.setattr(
        sys, "argv", ["loader.py", *arguments.split(), "--length", "30", "--json", str(found)]
    )
    loader.main()
    found = json.loads(found.read_text())
    arms = {(one["form"], one["reader"], one["repeats"]): one for one in found["one_core"]}
    for form in ("original", "copy"):
        readers = [reader for of, reader, repeats in arms if (of, repeats) == (form, 1)]
        assert "pyav" in readers and set(readers) <= set(READERS)
        assert ("intra" in readers) == (form == "copy")
        assert (form, readers[0], loader.REPEATS) in arms
    first = [next(arm for arm in arms if arm[0] == form) for form in ("original", "copy")]
    ratio = arms[first[0]]["whole"] / arms[first[1]]["whole"]
    assert found["ratios"]["prepared_over_original"] == pytest.approx(ratio, rel=0.02)
    assert len(found["rounds"]) == 3
    limits = [one["limit_processor"] / one["loader_processor"] for one in found["rounds"]]
    assert found["ratios"]["loader_over_limit"] == pytest.approx(sorted(limits)[1], abs=0.001)
    assert all(ms for each in found["peers"].values() for ms in each.values())
    assert "clips/s a core" in capsys.readouterr().out
    assert not {"root", "manifest"} & set(found["settings"])
