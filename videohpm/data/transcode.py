"""``videohpm data transcode``: a smaller copy of a data set for fast random access.

H.264 without B-frames in short closed groups: any frame is at most one group away from a key frame,
and every reader decodes such files alike. In groups of one every frame is a key frame, and of a
clip only its own frames are decoded. Sound is dropped, rotation applied; frames keep their number
and order, so that clips cut from the copy are those of the original.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from videohpm.config.options import shard_of
from videohpm.data.container import ONE_THREAD, DecodeError, as_file, decoded_of_any_size
from videohpm.data.decode import read_video_info
from videohpm.data.geometry import UPRIGHT, geometry
from videohpm.data.index import VideoIndex, video_index
from videohpm.data.killable_pool import Failed, run_killable
from videohpm.data.manifest_parser import VIDEO_SUFFIXES
from videohpm.data.sample_files import make_folder
from videohpm.data.scan import FOUND, Progress, every_nth, list_names, list_samples
from videohpm.data.tables import write_table
from videohpm.errors import RunError, UserError

SETTINGS = "transcode.json"
TICKS = 90_000  # a second, of the time stamps written
PIXELS = "yuv420p"
QUALITY = 20
"""x264's constant rate factor."""
FAST_TO_DECODE = ":cabac=0:no-deblock=1"
"""Of key frames alone, decoding takes a third to a half less so, and files are a tenth larger."""


@dataclass(frozen=True)
class Recipe:
    """How files are encoded; noted in the folder, which holds files of one recipe only."""

    short_side: int
    group: int
    quality: int
    version: int = 1
    square_pixels: bool = False


def recipe_of(
    short_side: int, group: int, quality: int = QUALITY, square_pixels: bool = False
) -> Recipe:
    """The recipe as files are encoded today."""
    version = 2 if group == 1 else 1  # 1 of key frames alone were not made to decode fast
    return Recipe(short_side - short_side % 2, group, quality, version, square_pixels)


def transcode(
    manifest: str,
    out: str,
    root: str | None = None,
    short_side: int = 320,
    group: int = 12,
    quality: int = QUALITY,
    square_pixels: bool = False,
    labels: bool = False,
    workers: int = 0,
    decode_timeout: float = 600.0,
    memory: float = 4.0,
    shard: str | None = None,
    merge: int = 0,
) -> int:
    """``videohpm data transcode``; arguments as in :func:`videohpm.config.options.transcode`."""
    recipe, folder = recipe_of(short_side, group, quality, square_pixels), Path(out)
    limits = {"jobs": workers or os.cpu_count() or 1, "seconds": decode_timeout, "memory": memory}
    if shard is not None:
        at, of = shard_of(shard)
        names, base = list_names(Path(manifest), root, "video")
        own, _ = every_nth(names, at, of)  # of two files for one copy the merge tells
        part = list(_targets(own, base, folder).values())
        _claim(folder, recipe)
        failed = _encode_all(part, recipe, limits)
        note = failures_of(folder, at, of)
        partial_of(note).write_text(json.dumps(failed) + "\n")
        partial_of(note).replace(note)
        print(f"{folder}: {len(part) - len(failed)} of {len(part)} videos of shard {shard}")
        return 0
    columns, base = list_samples(Path(manifest), root, labels, "video")
    pairs = _targets(columns["path"], base, folder)
    _claim(folder, recipe)
    all_pairs = list(pairs.values())
    failed = _merged(all_pairs, folder, merge) if merge else _encode_all(all_pairs, recipe, limits)
    failed = {source: failed[source] for source, _ in all_pairs if source in failed}
    _write_lists(folder, columns, pairs, failed, recipe)
    print(f"{folder / 'manifest.csv'}: {len(pairs) - len(failed)} of {len(pairs)} videos")
    if failed:
        print(f"{folder / 'failed.csv'}: the other {len(failed)}, with reasons")
    return 0


def _encode_all(
    pairs: list[tuple[str, str]], recipe: Recipe, limits: dict[str, Any]
) -> dict[str, str]:
    """Copies what is not done yet; reasons by source of what cannot be copied."""
    todo = [pair for pair in pairs if not _is_done(*pair)]
    progress, failed = Progress(len(pairs), len(pairs) - len(todo)), {}
    try:
        for position, result in run_killable(partial(encode, recipe=recipe), todo, **limits):
            source, target = todo[position]
            if isinstance(result, Failed):
                failed[source] = result.reason
                partial_of(target).unlink(missing_ok=True)
            progress.advance(failed=len(failed))
    except RunError:
        for _, target in todo:
            partial_of(target).unlink(missing_ok=True)
        raise
    finally:
        progress.close()
    return failed


def failures_of(folder: Path, at: int, of: int) -> Path:
    """Where the shard ``at`` (from 1) of so many notes what it could not copy, when it is done."""
    return folder / f"failed-{at}-of-{of}.json"


def _merged(pairs: list[tuple[str, str]], folder: Path, shards: int) -> dict[str, str]:
    """What the shards could not copy. UserError where one is not complete: nothing is encoded."""
    failed = {}
    for at in range(1, shards + 1):
        note = failures_of(folder, at, shards)
        noted = json.loads(note.read_text()) if note.exists() else {}
        missing = [
            source
            for source, target in pairs[at - 1 :: shards]
            if source not in noted and not _is_done(source, target)
        ]
        if missing or not note.exists():
            what = (
                f"lacks {len(missing)} videos (first: {missing[0]})" if missing else "is not done"
            )
            raise UserError(f"merge: shard {at}/{shards} {what}; run --shard {at}/{shards} again")
        failed |= noted
    return failed


def encode(pair: tuple[str, str], recipe: Recipe) -> None:
    """One file, under its name when complete. Runs in a worker. Raises DecodeError."""
    import av

    source, target = pair
    partial_file = partial_of(target)
    partial_file.parent.mkdir(parents=True, exist_ok=True)
    params = f"keyint={recipe.group}:min-keyint={recipe.group}:scenecut=0:open-gop=0:bframes=0"
    if recipe.group == 1:
        params += FAST_TO_DECODE
    options = {"preset": "medium", "crf": str(recipe.quality), "x264-params": f"{params}:threads=1"}
    index = video_index(source)
    rate = Fraction(read_video_info(source).fps or 25).limit_denominator(1001)
    count, stream, last, first = 0, None, -1, None
    with av.open(
        as_file(partial_file), "w", format="mp4", options={"movflags": "faststart"}
    ) as file:
        for frame in decoded_of_any_size(source):
            first = first or geometry(frame)
            if geometry(frame) != first:
                raise DecodeError(source, "the frame size or orientation changes within the video")
            ticks = last + int(TICKS / rate)
            if frame.pts is not None and frame.time_base is not None:
                ticks = round(frame.pts * frame.time_base * TICKS)
            last = max(ticks, last + 1)
            picture = fitted(frame, index, recipe)
            if stream is None:
                stream = file.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width, stream.pix_fmt = picture.height, picture.width, PIXELS
                stream.codec_context.color_range = picture.color_range
                stream.codec_context.colorspace = picture.colorspace
                stream.codec_context.time_base = Fraction(1, TICKS)
            picture.pts, picture.time_base = last, Fraction(1, TICKS)
            picture.pict_type = 0  # else the source's key frames would be key frames here too
            file.mux(stream.encode(picture))
            count += 1
        if stream is None:
            raise DecodeError(source, "no frame decodes")
        file.mux(stream.encode(None))
    if read_video_info(partial_file).frames != count:
        raise DecodeError(source, "the copy has another number of frames")
    partial_file.replace(target)


def fitted(frame, index: VideoIndex, recipe: Recipe):
    """The frame upright, no larger than asked for, with even sides, in 8-bit limited-range YUV."""
    import av

    if index.orientation != UPRIGHT:
        upright = index.orientation.turn(frame.to_ndarray(format="rgb24", **ONE_THREAD))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright), format="rgb24")
    size = index.height, index.width * (index.pixel_aspect if recipe.square_pixels else 1)
    scale = min(recipe.short_side / min(size), 1)
    height, width = (max(round(side * scale / 2) * 2, 2) for side in size)
    how: dict[str, Any] = {"interpolation": "AREA", "dst_color_range": "MPEG"}
    return frame.reformat(width, height, PIXELS, **how, **ONE_THREAD)


def partial_of(target: str | os.PathLike) -> Path:
    """Where a file is written before it is complete: a short name, however long the final one."""
    target = Path(target)
    digest = hashlib.blake2b(os.fsencode(target.name), digest_size=12).hexdigest()
    return target.with_name(f".{digest}.partial")


def _targets(names: list[str], base: str, folder: Path) -> dict[str, tuple[str, str]]:
    """(source, target) for each path of the manifest. UserError where two would be one file."""
    pairs, taken = {}, {}
    for name in dict.fromkeys(names):
        if os.path.splitext(name)[1].lower() not in VIDEO_SUFFIXES:
            raise UserError(f"data transcode: {name} has no suffix of a video")
        source = os.path.join(base, name)
        inside = os.path.relpath(source, base) if os.path.isabs(name) else os.path.normpath(name)
        if inside.startswith(".."):
            raise UserError(f"data transcode: {name} lies outside {base}; set root above all files")
        target = os.path.splitext(inside)[0] + ".mp4"
        if taken.setdefault(target, name) != name:
            raise UserError(f"data transcode: {name} and {taken[target]} would both be {target}")
        pairs[name] = source, str(folder / target)
    return pairs


def _claim(folder: Path, recipe: Recipe) -> None:
    """Notes the recipe in the folder. UserError where it holds files of another one."""
    note = folder / SETTINGS
    make_folder(folder, "out")
    if note.exists():
        try:
            found = json.loads(note.read_text())
        except ValueError:
            found = None
        if not isinstance(found, dict) or {"square_pixels": False} | found != asdict(recipe):
            raise UserError(f"{note}: made with other settings ({found}); name another folder")
        return
    # Shards that start together all write the same note; it appears complete, before any video.
    others = [one for one in folder.iterdir() if not one.name.startswith(f".{SETTINGS}")]
    if others and not note.exists():
        raise UserError(f"{folder}: holds other files; name an empty folder for the copy")
    with tempfile.NamedTemporaryFile(
        "w", dir=folder, prefix=f".{SETTINGS}-", delete=False
    ) as written:
        written.write(json.dumps(asdict(recipe)) + "\n")
    os.chmod(written.name, 0o644)
    os.replace(written.name, note)


def _is_done(source: str, target: str) -> bool:
    """Whether a copy is there that is no older than its source."""
    try:
        return os.stat(target).st_mtime_ns >= os.stat(source).st_mtime_ns
    except OSError:
        return False


def _write_lists(
    folder: Path,
    columns: dict[str, list],
    pairs: dict[str, tuple[str, str]],
    failed: dict,
    recipe: Recipe,
) -> None:
    """manifest.csv: the rows as they were, for the copies. failed.csv, or none where all went."""
    names = [name for name in columns if name not in (*FOUND, "group")]
    rows, found = [], {}
    for row, name in enumerate(columns["path"]):
        source, target = pairs[name]
        if source in failed:
            continue
        if name not in found:
            info = read_video_info(target)
            found[name] = [info.frames, info.height, info.width, info.reader, recipe.group]
        fields = {key: columns[key][row] for key in names}
        fields["path"] = os.path.relpath(target, folder)
        rows.append([*fields.values(), *found[name]])
    added = ("frames", "height", "width", "reader", "group")
    write_table(folder / "manifest.csv", [*names, *added], rows)
    if failed:
        write_table(folder / "failed.csv", ["path", "reason"], [list(x) for x in failed.items()])
    else:
        (folder / "failed.csv").unlink(missing_ok=True)
