"""benchmarks/vectors.py: which frames have motion vectors, of files where that is known."""

import json

from painted import encode


def test_frames_with_vectors_are_counted(benchmarks_on_path, tmp_path, capsys):
    import vectors

    predicted = {"x264-params": "keyint=12:scenecut=0:bframes=0:threads=1"}
    encode(tmp_path / "groups.mp4", "libx264", 24, options=predicted)
    encode(tmp_path / "alone.mp4", "libx264", 24, options={"x264-params": "keyint=1:threads=1"})
    files = [str(tmp_path / name) for name in ("groups.mp4", "alone.mp4")]
    vectors.main([*files, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["alone.mp4"]["with_vectors"] == 0
    assert 0 < found["groups.mp4"]["with_vectors"] <= 22 / 24  # but the two key frames
    for facts in found.values():
        assert facts["codec"] == "h264" and facts["frames"] == 24
        assert facts["exported_over_plain"] > 0 and facts["read_over_plain"] > 0
    assert "groups.mp4: codec h264" in capsys.readouterr().out
