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
    assert list(found["one_core"]) == ["original", "copy"]
    assert next(iter(found["one_core"]["copy"])) == "intra"
    assert "intra" not in found["one_core"]["original"]
    for readers in found["one_core"].values():
        assert "pyav" in readers and set(readers) <= set(READERS)
    first = [next(iter(found["one_core"][form].values())) for form in ("original", "copy")]
    ratio = first[0]["loader_ms"] / first[1]["loader_ms"]
    assert found["ratios"]["prepared_over_original"] == pytest.approx(ratio, rel=0.01)
    assert len(found["rounds"]) == 3
    assert "clips/s a core" in capsys.readouterr().out
    assert not {"root", "manifest"} & set(found["settings"])
