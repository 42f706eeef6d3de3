"""Small copies of each official layout: prepared by the command, then read for training."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from videohpm import cli
from videohpm.data import DataConfig, GlobalBatchSampler, find_samples, make_dataset, make_loader

NAMES = ("ssv2", "kinetics400", "ucf101", "hmdb51", "imagenet1k", "shapes")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Bytes of one small clip."""
    import av

    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            picture = np.full((48, 64, 3), 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.fixture
def put(tmp_path, video):
    """Writes a clip, or a text, at a path under ROOT."""

    def write(path, text=None):
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(video) if text is None else file.write_text(text)

    return write


@pytest.fixture
def prepare(tmp_path, capsys):
    """Runs the command and returns what it printed."""

    def run(name):
        root, out = str(tmp_path / "root"), str(tmp_path / "out")
        assert cli.main(["data", "prepare", name, "--root", root, "--out", out]) == 0
        return capsys.readouterr().out

    return run


def table(tmp_path, split):
    with (tmp_path / "out" / f"{split}.csv").open(newline="") as text:
        return [tuple(row) for row in csv.reader(text)][1:]


def one_batch(tmp_path, split, frames=4):
    """A batch of training from a manifest."""
    config = DataConfig(
        root=str(tmp_path / "root"), manifest=str(tmp_path / "out" / f"{split}.csv"), stride=2
    )
    data = make_dataset(config, frames=frames, size=(32, 32), units=4, labels=True)
    batch = next(iter(make_loader(data, GlobalBatchSampler(len(data), 2, steps=1), workers=0)))
    assert batch.clips.shape == (2, 3, frames, 32, 32) and not batch.bad
    return batch


def test_ssv2(tmp_path, put, prepare):
    labels = {"Holding something": "1", "Closing something": "0", "Pushing something": "2"}
    put("labels.json", json.dumps(labels))
    rows = [("7", "Holding [something]"), ("9", "Closing [something]")]
    rows += [("11", "Closing [something]"), rows[0]]
    train = [{"id": i, "label": "x", "template": t, "placeholders": ["x"]} for i, t in rows]
    put("train.json", json.dumps(train))
    put("validation.json", json.dumps([{"id": "12", "template": "Pushing [something]"}]))
    put("test.json", json.dumps([{"id": "20"}]))
    for number in (7, 9, 12, 20, 99):
        put(f"20bn-something-something-v2/{number}.webm")
    said = prepare("ssv2")
    folder = "20bn-something-something-v2"
    assert table(tmp_path, "train") == [(f"{folder}/7.webm", "1"), (f"{folder}/9.webm", "0")]
    assert table(tmp_path, "validation") == [(f"{folder}/12.webm", "2")]
    assert table(tmp_path, "test") == [(f"{folder}/20.webm",)]
    for told in (
        *("train: 2 of 4", "1 missing on disk: 11", "1 annotated more than once: 7"),
        *("1 files in no split: 20bn-something-something-v2/99.webm", "published data set has 174"),
    ):
        assert told in said
    assert sorted(one_batch(tmp_path, "train").labels.tolist()) == [0, 1]
    put("train.json", json.dumps([{"id": "7", "label": "holding a cup"}]))
    assert "train.csv is without labels" in prepare("ssv2")
    assert table(tmp_path, "train") == [(f"{folder}/7.webm",)]


def test_official_lists_are_never_replaced(tmp_path, put, capsys):
    """They lie where manifests of the same names are written by default."""
    text = "label,youtube_id,time_start,time_end,split\nzumba,abc,1,11,train\n"
    put("train.csv", text)
    put("abc_000001_000011.mp4")
    root = str(tmp_path / "root")
    for _ in range(2):
        assert cli.main(["data", "prepare", "kinetics400", "--root", root]) == 2
        assert "--out: would replace" in capsys.readouterr().err
        assert (tmp_path / "root/train.csv").read_text() == text
        assert not (tmp_path / "root/classes.txt").exists()


def test_a_byte_order_mark_is_no_text(put, prepare):
    put("classInd.txt", "\ufeff1 Archery\n")
    put("trainlist01.txt", "\ufeffArchery/v_Archery_g08_c01.avi 1\n")
    put("v_Archery_g08_c01.avi")
    assert "train-1: 1 of 1" in prepare("ucf101")
    put("labels.json", '\ufeff{"Holding something": 0}')
    put("train.json", '\ufeff[{"id": 7, "template": "Holding [something]"}]')
    put("7.webm")
    assert "train: 1 of 1" in prepare("ssv2")
    put("wave_test_split1.txt", "\ufeffa_wave.avi 1\n")
    put("a_wave.avi")
    assert "train-1: 1 of 1" in prepare("hmdb51")


def test_kinetics400(tmp_path, put, prepare):
    head = "label,youtube_id,time_start,time_end,split\n"
    put("train.csv", head + "zumba,-a_b,1,11,train\nair drumming,cde,0,10,train\n"
        "zumba,gone,5,15,train\nzumba,cde,0,10,train\n")  # fmt: skip
    put("val.csv", head + "air drumming,fgh,100,110,val\n")
    put("test.csv", "youtube_id,time_start,time_end,split\nijk,3,13,test\n")
    put("train/zumba/-a_b_000001_000011.mp4")
    put("train/air_drumming/cde_000000_000010.mp4")
    put("elsewhere/fgh_000100_000110.mkv")
    put("test/ijk_000003_000013.mp4")
    put("train/zumba/cde_000020_000030.mp4")
    said = prepare("kinetics400")
    assert table(tmp_path, "train") == [
        ("train/zumba/-a_b_000001_000011.mp4", "1"),
        ("train/air_drumming/cde_000000_000010.mp4", "0"),
    ]
    assert table(tmp_path, "validation") == [("elsewhere/fgh_000100_000110.mkv", "0")]
    assert table(tmp_path, "test") == [("test/ijk_000003_000013.mp4",)]
    for told in ("gone_000005_000015", "two classes", "cde_000020_000030.mp4"):
        assert told in said
    one_batch(tmp_path, "train")


def test_ucf101(tmp_path, put, prepare):
    lists = "ucfTrainTestlist"
    put(f"{lists}/classInd.txt", "1 Archery\n2 HandstandPushups\n")
    put(f"{lists}/trainlist01.txt", "Archery/v_Archery_g08_c01.avi 1\n"
        "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\n")  # fmt: skip
    put(f"{lists}/testlist01.txt", "Archery/v_Archery_g01_c01.avi\nArchery/v_Archery_g01_c02.avi\n")
    put(f"{lists}/trainlist02.txt", "Archery/v_Archery_g01_c01.avi 1\n")
    for path in ("Archery/v_Archery_g08_c01", "HandStandPushups/v_HandstandPushups_g08_c01",
                 "Archery/v_Archery_g01_c01"):  # fmt: skip
        put(f"UCF-101/{path}.avi")
    said = prepare("ucf101")
    assert [label for _, label in table(tmp_path, "train-1")] == ["0", "1"]
    assert table(tmp_path, "validation-1") == table(tmp_path, "train-2")
    assert "validation-1: 1 of 2" in said and "earlier split" not in said
    one_batch(tmp_path, "train-1")


def test_hmdb51(tmp_path, put, prepare):
    lists = "testTrainMulti_7030_splits"
    put(f"{lists}/wave_test_split1.txt", "a_wave #1.avi 1 \nb_wave.avi 2 \nc_wave.avi 0 \n")
    put(f"{lists}/wave_test_split2.txt", "a_wave #1.avi 2 \nb_wave.avi 1 \nc_wave.avi 0 \n")
    put(f"{lists}/chew_test_split1.txt", "d_chew.avi 1 \ne_chew.avi 2 \n")
    for path in ("wave/a_wave #1", "wave/b_wave", "wave/c_wave", "chew/d_chew", "chew/extra"):
        put(f"{path}.avi")
    said = prepare("hmdb51")
    assert table(tmp_path, "train-1") == [("chew/d_chew.avi", "0"), ("wave/a_wave #1.avi", "1")]
    assert table(tmp_path, "train-2") == [("wave/b_wave.avi", "1")]
    assert "1 missing on disk: e_chew" in said and "1 files in no split: chew/extra.avi" in said
    assert (tmp_path / "out/classes.txt").read_text() == "chew\nwave\n"
    one_batch(tmp_path, "train-1")


def test_imagenet1k(tmp_path, put, prepare):
    for path in ("train/n01/a.JPEG", "train/n02/b.JPEG", "val/n02/c.JPEG"):
        put(path, "")
        Image.new("RGB", (40, 50), (9, 200, 30)).save(tmp_path / "root" / path)
    put("val/n02/readme.txt", "not an image")
    said = prepare("imagenet1k")
    assert table(tmp_path, "train") == [("train/n01/a.JPEG", "0"), ("train/n02/b.JPEG", "1")]
    assert table(tmp_path, "validation") == [("val/n02/c.JPEG", "1")]
    assert "published split has 1281167" in said
    one_batch(tmp_path, "train", frames=1)
    put("val/n03/d.JPEG", "")
    root, out = str(tmp_path / "root"), str(tmp_path / "out")
    assert cli.main(["data", "prepare", "imagenet1k", "--root", root, "--out", out]) == 2


def test_a_folder_of_ones_own_needs_no_preparation(tmp_path, put):
    for path in ("walk/a.mp4", "run/b.mp4"):
        put(path)
    found = find_samples(tmp_path / "root", labels=True)
    assert found.classes == ["run", "walk"] and found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_facts_have_the_same_keys(root, name):
    facts = yaml.safe_load((root / "datasets" / name / "dataset.yaml").read_text())
    assert facts["name"] == name and (root / "datasets" / name / "README.md").is_file()
    wanted = {"name", "title", "kind", "classes", "splits", "test", "flip", "pixels", "facts"}
    wanted |= {"clip"} if facts["kind"] == "video" else set()
    assert facts.keys() - {"pretrain_clip"} == wanted
    names = facts["classes"].get("names")
    assert names is None or len(set(names)) == facts["classes"]["count"] == len(names)
    assert all(split["manifest"].endswith(".csv") for split in facts["splits"].values())
    assert facts["flip"]["why"] and isinstance(facts["flip"]["allowed"], bool)
    assert all(len(facts["pixels"][key]) == 3 for key in ("mean", "std"))
    for clip in [facts[key] for key in ("clip", "pretrain_clip", "test") if key in facts]:
        assert clip.get("sampling", "dense") in ("dense", "segments")
    assert facts["test"]["clips"] > 0 and facts["test"]["crops"] > 0


def test_a_script_runs_by_itself(root):
    script = root / "datasets/ssv2/prepare.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--out" in done.stdout


def test_the_recipes_keep_to_the_flip_rule(root):
    """Where a label says left or right, no recipe may mirror."""
    for file in sorted((root / "configs").glob("*/*.yaml")):
        name = file.stem.split("_")[0]
        if (root / "datasets" / name).is_dir():
            facts = yaml.safe_load((root / "datasets" / name / "dataset.yaml").read_text())
            recipe = yaml.safe_load(file.read_text()) or {}
            flips = (recipe.get("data") or {}).get("flip", False)
            assert facts["flip"]["allowed"] or not flips, file
