"""Decoders that hang or crash, workers that are killed, memory: training goes on."""

import csv
import errno
import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damaged import KINDS, damage
from misbehaving import misbehave
from painted import copy_packets, encode

from videohpm import cli
from videohpm import pretrain as pretrain_module
from videohpm.config import (
    HPMConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
)
from videohpm.data import (
    DataConfig,
    GlobalBatchSampler,
    VideoDataset,
    find_samples,
    loader,
    make_loader,
    read_frames,
)
from videohpm.data.index import forget_indexes
from videohpm.data.readers import READERS
from videohpm.engine import EngineConfig
from videohpm.errors import RunError, UserError
from videohpm.pretrain import Pretraining, pretrain

pytestmark = pytest.mark.usefixtures("deaths_noticed_soon")
X264_INTRA = {"x264-params": "keyint=1:threads=1"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight small videos."""
    folder = tmp_path_factory.mktemp("videos")
    options = {"x264-params": "keyint=12:threads=1"}
    first = encode(folder / "0.mp4", "libx264", 24, options=options)
    for place in range(1, 8):
        (folder / f"{place}.mp4").write_bytes(first.read_bytes())
    return folder


class Faulty(VideoDataset):
    """Reading row 3 misbehaves."""

    fault = None

    def read(self, sample, rng):
        if self.fault and sample.path.endswith("3.mp4"):
            misbehave(self.fault)
        return super().read(sample, rng)


def faulty(folder, fault=None, **config) -> Faulty:
    config = DataConfig(root=str(folder), stride=2, **({"prefetch": 1} | config))
    data = Faulty(find_samples(folder), config, frames=4, size=(32, 32), units=6)
    data.fault = fault
    return data


def load(data, *, steps=4, count=2):
    """Two epochs in batches of four, and the loader."""
    loader = make_loader(data, GlobalBatchSampler(8, 4, steps=steps), workers=count)
    return list(loader), loader


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


def bad_files(batches):
    return {(Path(bad.path).name, bad.reason) for batch in batches for bad in batch.bad}


@pytest.fixture(scope="module")
def sound(folder):
    """The batches without any fault."""
    return load(faulty(folder), count=0)[0]


def test_a_decoder_that_hangs_is_left_behind(folder, sound):
    batches, loader = load(faulty(folder, "hang", decode_timeout=2))
    assert len(batches) == 4 and loader.deaths == 0
    assert {name for name, _ in bad_files(batches)} == {"3.mp4"}
    for batch, right in zip(batches, sound, strict=True):
        untouched = right.index != 3
        assert torch.equal(batch.clips[untouched], right.clips[untouched])
        assert torch.equal(batch.shuffle_ids, right.shuffle_ids) and 3 not in batch.index


@linux
@pytest.mark.parametrize("fault", ["hang in native code", "die"])
def test_a_decoder_that_takes_its_process_along_is_given_up(folder, fault):
    """It hangs without letting any thread run, or crashes: twice, then the file is known."""
    batches, loader = load(faulty(folder, fault, decode_timeout=2), count=1)
    assert len(batches) == 4 and loader.deaths == 2
    assert bad_files(batches) == {("3.mp4", "two reading processes died while reading it")}


@linux
def test_a_killed_worker_costs_no_batch_and_changes_none(folder, sound):
    data = faulty(folder)
    loader = make_loader(data, GlobalBatchSampler(8, 4, steps=4), workers=2)
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == 1:
            # A worker that has not begun yet has no number; 0 would be all processes of the test.
            for pid in filter(None, data.worker_state.pids.tolist()):
                os.kill(pid, signal.SIGKILL)
    assert loader.deaths == 1
    assert len(batches) == 4 and all(map(same, batches, sound))
    assert all(map(same, loader, sound))  # and once more from the start


@linux
def test_readers_that_are_killed_from_outside_give_no_file_up(folder, sound, tmp_path, caplog):
    """As where memory is short: twice in one file, which is sound. The batches stay the same."""

    class Killed(Faulty):
        def read(self, sample, rng):
            if sample.path.endswith("3.mp4"):
                misbehave(("killed", str(tmp_path / "reads"), 4))
            return super().read(sample, rng)

    config = DataConfig(root=str(folder), stride=2, prefetch=1)
    data = Killed(find_samples(folder), config, frames=4, size=(32, 32), units=6)
    batches, loader = load(data, count=2)
    assert loader.deaths >= 2 and loader.workers == 1
    assert bad_files(batches) == set() and all(map(same, batches, sound))
    assert "killed from outside (signal 9; is memory short?); going on with 1" in caplog.text


@linux
def test_only_the_file_that_a_dead_reader_was_reading_is_suspected(folder):
    """The others of the batch are read at that moment, by other processes."""

    class Slow(Faulty):
        def read(self, sample, rng):
            if sample.path.endswith("3.mp4"):
                time.sleep(0.5)  # so that the others have begun
                misbehave("die")
            time.sleep(1)
            return super().read(sample, rng)

    config = DataConfig(root=str(folder), stride=2, prefetch=1)
    data = Slow(find_samples(folder), config, frames=4, size=(32, 32), units=6)
    batches, loader = load(data, count=2, steps=2)
    assert loader.deaths == 2
    assert {name for name, _ in bad_files(batches)} == {"3.mp4"}
    assert set(data.worker_state.files.nonzero().flatten().tolist()) == {3}


@linux
def test_shared_memory_that_is_full_is_told_and_no_file_is_blamed(folder):
    data = faulty(folder, "write to full memory")
    with pytest.raises(RunError, match=r"data\.workers: shared memory is full.*--shm-size"):
        load(data, count=1)
    assert not data.worker_state.files.any()


@linux
def test_workers_that_keep_dying_end_the_run(folder, monkeypatch):
    monkeypatch.setattr(loader, "MOST_DEATHS", 1)
    with pytest.raises(RunError, match=r"died 1 times.*3\.mp4.*data scan") as caught:
        load(faulty(folder, "die"), count=1)
    assert "\n" not in str(caught.value)


@linux
def test_a_reader_whose_connection_ends_before_it_is_waited_for(folder, monkeypatch):
    """As where it takes a while to die: what it was reading is known all the same."""
    dying = multiprocessing.Event()

    class Slow(Faulty):
        def read(self, sample, rng):
            if sample.path.endswith("3.mp4"):
                dying.set()
                time.sleep(0.5)
                misbehave("die")
            return super().read(sample, rng)

    class Reset(loader.Loader):
        def _start(self, first):
            batches = super()._start(first)
            dying.wait()
            self.held = batches  # and with them the workers
            yield from ()
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(loader, "Loader", Reset)
    monkeypatch.setattr(loader, "MOST_DEATHS", 1)
    data = Slow(find_samples(folder), DataConfig(root=str(folder)), frames=4, size=(32, 32))
    with pytest.raises(RunError, match=r"3\.mp4: \[Errno 104\] Connection reset by peer"):
        load(data, count=1)


def test_what_the_data_set_raises_is_not_taken_for_a_death(folder):
    class Wrong(Faulty):
        def read(self, sample, rng):
            raise KeyError("a mistake in the code")

    data = Wrong(find_samples(folder), DataConfig(root=str(folder)), frames=4, size=(32, 32))
    with pytest.raises(KeyError, match="a mistake"):
        list(make_loader(data, GlobalBatchSampler(8, 4, steps=2), workers=1))


def test_too_little_memory_for_one_file_costs_that_file(folder):
    class Large(Faulty):
        def read(self, sample, rng):
            if sample.path.endswith("3.mp4"):
                raise MemoryError
            return super().read(sample, rng)

    config = DataConfig(root=str(folder), stride=2)
    data = Large(find_samples(folder), config, frames=4, size=(32, 32))
    batches = list(make_loader(data, GlobalBatchSampler(8, 4, steps=2), workers=0))
    assert [name for name, reason in bad_files(batches) if "memory" in reason] == ["3.mp4"]


def test_repeats_decode_once_and_cut_several_clips(folder):
    reads = []

    class Counted(Faulty):
        def read(self, sample, rng):
            reads.append(sample.path)
            return super().read(sample, rng)

    config = DataConfig(root=str(folder), stride=2, repeats=3, crop_scales=(0.9, 0.5))
    data = Counted(find_samples(folder), config, frames=4, size=(24, 24), units=9)
    (batch,) = make_loader(data, GlobalBatchSampler(8, 4, steps=1), workers=0)
    assert len(reads) == 4 and batch.clips.shape[0] == len(batch.shuffle_ids) == 12
    assert batch.index.view(4, 3).eq(batch.index[::3, None]).all()
    for clips, shuffle_ids in zip(batch.clips.split(3), batch.shuffle_ids.split(3), strict=True):
        assert len({clip.numpy().tobytes() for clip in clips}) > 1
        assert len({tuple(row) for row in shuffle_ids.tolist()}) == 3


# --- whole runs ----------------------------------------------------------------------------------


def settings(root, out, steps, **data) -> PretrainConfig:
    model = ModelConfig(
        arch="vit_tiny", frames=4, image_size=32, patch=8, dim=48, depth=1, heads=2,
        decoder_dim=32, decoder_depth=1, decoder_heads=2, target="raw",
    )  # fmt: skip
    return PretrainConfig(
        run=RunConfig(dir=str(out), steps=steps, log_every=1, picture_every=0, save_every=0),
        data=DataConfig(root=str(root), stride=2, **data),
        model=model,
        mask=MaskConfig(ratio=0.75),
        hpm=HPMConfig(
            momentum_start=0.9, momentum_end=0.99, momentum_steps=10, teacher_samples_per_tube=1
        ),
        optim=OptimConfig(global_batch_size=8, warmup_steps=1),
        engine=EngineConfig(device="cpu", precision="fp32"),
    )


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@linux
def test_training_goes_on_when_its_workers_are_killed(folder, tmp_path):
    class Killed(Pretraining):
        """Its workers die after the second step."""

        def _due(self, every):
            if self.done == 2:
                for pid in filter(None, self.data.worker_state.pids.tolist()):
                    os.kill(pid, signal.SIGKILL)
            return super()._due(every)

    config = settings(folder, tmp_path / "killed", 6, workers=1, prefetch=1)
    Killed(config).run()
    pretrain(replace(config, run=replace(config.run, dir=str(tmp_path / "sound"))))
    assert losses(tmp_path / "killed") == losses(tmp_path / "sound")
    last = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]
            for name in ("killed", "sound")]  # fmt: skip
    assert json.loads(last[0])["reader_deaths"] >= 1 and "reader_deaths" not in last[1]


@linux
def test_a_decoder_that_crashes_on_a_clip_of_the_pictures_does_not_end_the_run(
    folder, tmp_path, monkeypatch
):
    class Crashing(Faulty):
        """Reading row 3 ends whatever process does it; never this one."""

        def read(self, sample, rng):
            if sample.path.endswith("3.mp4"):
                assert torch.utils.data.get_worker_info() is not None, "read by the run itself"
                misbehave("die")
            return super().read(sample, rng)

    def crashing(config, **options):
        return Crashing(find_samples(folder), config, **options)

    monkeypatch.setattr(pretrain_module, "make_dataset", crashing)
    config = settings(folder, tmp_path / "run", 3, workers=2, max_bad_fraction=0.5)
    run = Pretraining(config)
    run.run()
    assert 3 not in run.fixed.index and len(run.fixed.index) == 8
    (bad,) = run.fixed.bad
    assert (Path(bad.path).name, bad.reason) == (
        "3.mp4", "two reading processes died while reading it",
    )  # fmt: skip
    assert len(losses(tmp_path / "run")) == 3
    assert list((tmp_path / "run/pictures").glob("*.png"))
    named = (tmp_path / "run/bad_files.jsonl").read_text().splitlines()
    assert [Path(json.loads(line)["path"]).name for line in named] == ["3.mp4"]


@pytest.mark.parametrize("after", [1, 3], ids=["before a checkpoint", "after one"])
def test_a_resumed_run_names_no_bad_file_twice_and_counts_on(tmp_path, folder, after, caplog):
    root = tmp_path / "videos"
    shutil.copytree(folder, root)
    for name in ("2.mp4", "5.mp4"):
        (root / name).write_bytes(b"no video")
    config = settings(root, tmp_path / "run", 5, workers=0, max_bad_fraction=0.25)
    config = replace(config, run=replace(config.run, save_every=2))

    class Interrupted(Pretraining):
        def train(self, batches, step):
            if step == after:
                raise KeyboardInterrupt
            return super().train(batches, step)

    with pytest.raises(KeyboardInterrupt):
        Interrupted(config).run()
    (root / "7.mp4").write_bytes(b"no video any more")
    with pytest.raises(UserError, match=r"max_bad_fraction: 3 of 8"):
        pretrain(config)
    (root / "7.mp4").write_bytes((root / "1.mp4").read_bytes())
    run = tmp_path / "run"
    if after == 1:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    pretrain(config)
    named = [json.loads(line)["path"] for line in (run / "bad_files.jsonl").open()]
    assert sorted(Path(path).name for path in named) == ["2.mp4", "5.mp4"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [row["bad_files"] for row in rows] == [2] * 5


def fill(folder, good_files, copies):
    """Good files, and ``copies`` damaged ones of each kind, in ``folder / "videos"``."""
    root = folder / "videos"
    root.mkdir()
    options = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:threads=1"}
    late = encode(folder / "late.mp4", "libx264", 60, options=options)
    good = copy_packets(late, folder / "good.mp4", options={"movflags": "faststart"})
    for i in range(good_files):
        (root / f"good{i}.mp4").write_bytes(good.read_bytes())
    for kind in KINDS:
        for seed in range(copies):
            damage(good, root / f"{kind}-{seed}.mp4", kind, seed)
    return root


def check_run(root, out, copies, steps):
    """A run over all files ends, having counted the unreadable ones and no good one."""
    pretrain(settings(root, out, steps, workers=1, short_videos="repeat", max_bad_fraction=0.5))
    bad = [json.loads(line) for line in (out / "bad_files.jsonl").read_text().splitlines()]
    named = {Path(line["path"]).name for line in bad}
    for kind in ("empty", "text", "zeros", "sound", "bomb"):
        assert {f"{kind}-{seed}.mp4" for seed in range(copies)} <= named
    assert not any(name.startswith(("good", "one_frame")) for name in named)
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == steps and last["bad_files"] == len(bad)


def test_training_without_a_scan_ends_among_damaged_files(tmp_path):
    root = fill(tmp_path, 66, copies=2)
    check_run(root, tmp_path / "run", copies=2, steps=11)
    with pytest.raises(UserError, match="max_bad_fraction"):
        # Ten of the 86 files are unreadable by any FFmpeg; of the other damage it varies.
        pretrain(settings(root, tmp_path / "strict", 11, workers=0, max_bad_fraction=0.1))


@pytest.mark.slow
def test_200_good_and_40_damaged_files_are_scanned_and_trained_on(tmp_path):
    root = fill(tmp_path, 200, copies=4)
    assert cli.main(["data", "scan", str(root), "--out", str(root / "scanned.csv")]) == 0
    scanned = find_samples(root / "scanned.csv")
    with (root / "scanned-quarantine.csv").open(newline="") as file:
        quarantined = {Path(row["path"]).name for row in csv.DictReader(file)}
    assert len(scanned) + len(quarantined) == 200 + 4 * len(KINDS)
    assert not any(name.startswith(("good", "one_frame")) for name in quarantined)
    for kind in ("empty", "text", "zeros", "sound", "bomb"):
        assert {f"{kind}-{seed}.mp4" for seed in range(4)} <= quarantined
    check_run(root, tmp_path / "run", copies=4, steps=31)


# --- memory --------------------------------------------------------------------------------------


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def growth(data, reads, first) -> float:
    """Growth of resident memory over ``reads`` items, relative, after the ``first`` ones."""
    for i in range(reads):
        data[divmod(i, len(data))]
        if i == first:
            before = resident()
    return resident() / before - 1


@linux
@pytest.mark.parametrize("reader", ["torchcodec", "decord", "pyav"])
def test_memory_stays_flat(folder, reader, monkeypatch):
    manifest = find_samples(folder)
    manifest._readers[:] = ["", *READERS].index(reader)
    data = VideoDataset(manifest, DataConfig(stride=2), frames=4, size=(32, 32), units=196)
    assert growth(data, 800, first=300) < 0.05


@pytest.mark.parametrize("rotation", [None, 90])
@pytest.mark.parametrize("reader", ["intra", "torchcodec", "pyav"])
def test_what_was_read_goes_at_once(tmp_path, reader, rotation):
    """Without the garbage collector, which in a process as large as a worker seldom looks at all
    there is: pictures in a ring of references would pile up meanwhile. (decord leaves types of
    arrays that it makes anew for each call, and no pictures.)"""
    if READERS[reader].available() is not None:
        pytest.skip(f"{reader} is not here")
    path = encode(tmp_path / "a.mp4", "libx264", 12, options=X264_INTRA, rotation=rotation)
    forget_indexes()
    read_frames(path, [0, 3, 4, 9], reader=reader)
    gc.collect()
    gc.disable()
    try:
        for first in range(3):
            forget_indexes()
            read_frames(path, [first, first + 1, first + 5], reader=reader)
        assert gc.collect() == 0
    finally:
        gc.enable()


@linux
@pytest.mark.slow
def test_memory_stays_flat_over_20000_reads(tmp_path):
    """Files of several kinds, broken ones among them."""
    options = {"x264-params": "keyint=12:threads=1"}
    good = encode(tmp_path / "good.mp4", "libx264", 24, options=options)
    made = [good, encode(tmp_path / "b.avi", "mpeg4", 24, b_frames=2)]
    quiet = {"x265-params": "log-level=none"}
    made.append(encode(tmp_path / "open.mkv", "libx265", 24, options=quiet))
    for path in made:
        for i in range(5):
            path.with_stem(f"{path.stem}{i}").write_bytes(path.read_bytes())
    for kind in ("flipped", "text", "bomb"):
        damage(good, tmp_path / f"{kind}.mp4", kind, 0)
    config = DataConfig(root=str(tmp_path), stride=2)
    data = VideoDataset(find_samples(tmp_path), config, frames=4, size=(32, 32), units=196)
    assert growth(data, 20_000, first=1000) < 0.05
