"""``videohpm data scan``: decode every file once, before training does.

Each file goes to a worker process that may be killed, so that a hang or crash of the decoder costs
that file only. Results are written file by file: a scan that was stopped continues.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from videohpm.config.options import shard_of
from videohpm.data.decode import DecodeError, read_frames, verify
from videohpm.data.images import read_image_and_format
from videohpm.data.killable_pool import Failed, run_killable
from videohpm.data.manifest import find_samples
from videohpm.data.manifest_parser import IMAGE_SUFFIXES, read_columns
from videohpm.data.readers import FALLBACK
from videohpm.data.sample_files import ANY, files_in, make_folder, start_of
from videohpm.data.tables import write_table
from videohpm.errors import UserError
from videohpm.progress import make_screen

FOUND = ("frames", "fps", "height", "width", "codec", "reader", "note")  # columns that are added
COMPARED = 8  # frames of a file for which a faster reader is checked against PyAV
REPORT_SECONDS = {True: 0.5, False: 10.0}  # between reports, on a terminal and elsewhere


def scan(
    manifest: str,
    root: str | None = None,
    out: str = "scanned.csv",
    labels: bool = False,
    damaged: Literal["keep", "drop"] = "keep",
    workers: int = 0,
    decode_timeout: float = 60.0,
    memory: float = 2.0,
    retry: bool = False,
    shard: str | None = None,
    merge: int = 0,
) -> int:
    """``videohpm data scan``; the arguments are those of :func:`videohpm.config.options.scan`."""
    target = Path(out)
    if os.path.isdir(target):  # else it is told when all files have been read
        raise UserError(f"out: {target} is a folder; name a file, as {target / 'scanned.csv'}")
    limits = workers or os.cpu_count() or 1, decode_timeout, memory
    if shard is not None:
        at, of = shard_of(shard)
        names, base = list_names(Path(manifest), root)
        part, total = every_nth(names, at, of)
        paths = [os.path.join(base, name) for name in part]
        journal = Journal(shard_journal(target, at, of), retry)
        make_folder(target.parent, "out")
        count = sum(1 for _ in _results(paths, journal, *limits))
        print(f"{journal.path}: {count} of {total} files; scan with --merge {of} in the end")
        return 0
    columns, base = list_samples(Path(manifest), root, labels)
    names = list(dict.fromkeys(columns["path"]))
    paths = [os.path.join(base, name) for name in names]
    make_folder(target.parent, "out")
    if merge:
        results = _merged(paths, target, merge)
    else:
        results = dict(_results(paths, Journal(journal_of(target), retry), *limits))
    by_name = {name: results[path] for name, path in zip(names, paths, strict=True)}
    kept = [
        row
        for row, name in enumerate(columns["path"])
        if by_name[name]["reason"] is None
        and not (damaged == "drop" and _is_damaged(by_name[name]))
    ]
    # Where the new manifest lies elsewhere, its paths still start from the same folder.
    moved = base if target.parent.resolve() != Path(base).resolve() and root is None else ""
    _write_manifest(target, columns, by_name, kept, moved)
    bad = _write_quarantine(target, columns, by_name, set(kept), base)
    partly = sum(_is_damaged(by_name[columns["path"][row]]) for row in kept)
    print(f"{target}: {len(kept)} of {len(columns['path'])} readable, {partly} of them in part")
    oblong = sum(by_name[name].get("pixel_aspect", 1) != 1 for name in names)
    if oblong:
        print(
            f"{oblong} files have pixels that are not square: frames are read as they are stored "
            "(data transcode --square_pixels true copies them as displayed)"
        )
    if bad:
        print(f"{bad}: the other {len(columns['path']) - len(kept)}, with reasons")
    return 0


class Journal:
    """Results by file, one JSON object a line; those of a file that changed do not count."""

    def __init__(self, path: Path, retry: bool):
        self.path, self.retry = path, retry

    def load(self) -> dict[str, dict]:
        """The latest result of each path. Incomplete lines are left out."""
        known = {}
        if self.path.exists():
            for line in self.path.read_text(errors="surrogateescape").splitlines():
                try:
                    entry = json.loads(line)
                    known[entry["path"]] = (
                        dict.fromkeys(FOUND) | {"reason": entry["reason"]} | entry
                    )
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue
        return known

    def is_current(self, entry: dict | None, path: str) -> bool:
        """Whether a file need not be read again."""
        if entry is None or (self.retry and entry["reason"] is not None):
            return False
        return [entry.get("size"), entry.get("changed")] == identity(path)

    def open(self):
        """Opened to append, after a line break: the last line may be incomplete."""
        file = self.path.open("a+", encoding="utf-8", errors="surrogateescape")
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.write("\n")
        return file


def journal_of(target: Path, part: str = "") -> Path:
    """Where the results for the manifest ``target`` are noted, of all files or of a part."""
    return target.with_name(f"{target.stem}-scan{part}.jsonl")


def shard_journal(target: Path, at: int, of: int) -> Path:
    """As ``journal_of``, of the shard ``at`` (from 1) of so many."""
    return journal_of(target, f"-{at}-of-{of}")


def _merged(paths: list[str], target: Path, shards: int) -> dict[str, dict]:
    """The results of all shards. UserError where one is missing or incomplete: nothing is read."""
    results = {}
    for at in range(1, shards + 1):
        journal = Journal(shard_journal(target, at, shards), retry=False)
        part, known = paths[at - 1 :: shards], journal.load()
        missing = [path for path in part if not journal.is_current(known.get(path), path)]
        if missing:
            raise UserError(
                f"merge: {journal.path} lacks {len(missing)} of {len(part)} files (first: "
                f"{missing[0]}); run --shard {at}/{shards} again"
            )
        results |= {path: known[path] for path in part}
    return results


def identity(path: str) -> list[int] | list[None]:
    """Size and change time of a file, [None, None] where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return [None, None]
    return [status.st_size, status.st_mtime_ns]


def check(path: str) -> dict[str, Any]:
    """What one file holds; ``note`` says how it is damaged. Runs in a worker.

    Where packets say that a faster reader may read the file, its frames are compared with PyAV's.
    """
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
        return check_image(path)
    try:
        info, damage = verify(path)
    except DecodeError as error:
        return {"reason": error.reason}
    reader, note = info.reader, damage
    if reader != FALLBACK:
        step = max(info.frames // COMPARED, 1)
        some = [min(i * step + i % 3, info.frames - 1) for i in range(COMPARED)]
        if not _reads_right(path, some, reader):
            reader, note = FALLBACK, f"{reader} reads other frames"
    found = {name: getattr(info, name) for name in ("frames", "fps", "height", "width", "codec")}
    found |= {"reader": reader, "note": note, "damaged": damage is not None}
    found |= {"pixel_aspect": info.pixel_aspect}
    return found | {"reason": None}


def _reads_right(path: str, positions: list[int], reader: str) -> bool:
    """Whether ``reader`` returns PyAV's frames, together and each by itself.

    A reader that seeks to the wrong place may still be right where it decodes on from frame 0, as
    in a read of ascending positions.
    """
    right = read_frames(path, positions, reader=FALLBACK)
    if (read_frames(path, positions, reader=reader) != right).any():
        return False
    single = list(enumerate(positions))[1::2]
    return not any(
        (read_frames(path, [position], reader=reader)[0] != right[i]).any()
        for i, position in reversed(single)
    )


def check_image(path: str) -> dict[str, Any]:
    """As ``check``, for an image."""
    try:
        pixels, codec = read_image_and_format(path)
    except DecodeError as error:
        return {"reason": error.reason}
    height, width = pixels.shape[:2]
    return {"frames": 1, "height": height, "width": width, "codec": codec, "reason": None}


def _results(
    paths: list[str], journal: Journal, workers: int, decode_timeout: float, memory: float
) -> Iterator[tuple[str, dict]]:
    """(path, result) of every path: those that are known, then the others as they are checked."""
    known = journal.load()
    unknown = []
    for path in paths:
        if journal.is_current(known.get(path), path):
            yield path, known[path]
        else:
            unknown.append(path)
    bad = 0
    with closing(Progress(len(paths), len(paths) - len(unknown))) as shown, journal.open() as file:
        limits = {"seconds": decode_timeout, "memory": memory}
        finished = run_killable(check, unknown, jobs=workers, **limits)
        for position, result in finished:
            path = unknown[position]
            if isinstance(result, Failed):
                result = {"reason": result.reason}
            size, changed = identity(path)
            entry = {"path": path, "size": size, "changed": changed}
            entry |= dict.fromkeys(FOUND) | result
            file.write(json.dumps(entry) + "\n")
            file.flush()
            bad += entry["reason"] is not None
            shown.advance(unreadable=bad)
            yield path, entry


def _is_damaged(entry: dict) -> bool:
    """Whether a file is readable in part only. A note may also say why a reader is not used."""
    return bool(entry.get("damaged", entry["note"]))


class Progress:
    """Files done, their rate and the time left, for a long command."""

    def __init__(self, total: int, done: int):
        self.screen = make_screen(sys.stderr, total, done, time.monotonic)
        self.total, self.done, self.first = total, done, done
        self.begun = self.reported = time.monotonic()

    def advance(self, **counts: int) -> None:
        """One file more; counts such as ``unreadable`` stand in the line."""
        self.done += 1
        now = time.monotonic()
        if now - self.reported >= REPORT_SECONDS[sys.stderr.isatty()] or self.done == self.total:
            rate = (self.done - self.first) / max(now - self.begun, 1e-9)
            self.screen.log(self.done, counts | {"files/s": rate})
            self.reported = now
        else:
            self.screen.advance(self.done)

    def close(self) -> None:
        self.screen.close()


# --- what is read and written --------------------------------------------------------------------


def list_samples(
    manifest: Path, root: str | None, labels: bool, kind: str = ANY
) -> tuple[dict[str, list], str]:
    """The columns of the manifest, or of the listing of a folder (of one ``kind`` of files), and
    where its paths start: those of a folder at itself, or at a ``root`` that holds it. UserError
    where none of the files that a manifest lists is there, or ``root`` does not hold the folder."""
    if not os.path.isdir(manifest):
        if not os.path.isfile(manifest):
            raise UserError(f"manifest: {manifest} does not exist; name a file or a folder")
        columns, base = read_columns(manifest), root or str(manifest.parent)
        names = columns["path"]
        if not any(os.path.exists(os.path.join(base, name)) for name in names):
            raise UserError(
                f"root: of the {len(names)} files of {manifest} none is there (first: "
                f"{os.path.join(base, names[0])}); give --root, the folder that their paths start "
                "from"
            )
        return columns, base
    if not labels:
        names, base = list_names(manifest, root, kind)
        return {"path": list(names)}, base
    base, inside = start_of(manifest, root)
    found = find_samples(manifest, labels=True, kind=kind)
    classes = found.classes or []
    columns = {"path": [os.path.join(inside, found.name(i)) for i in range(len(found))]}
    return columns | {"label": [classes[label] for label in found.labels]}, base


def list_names(manifest: Path, root: str | None, kind: str = ANY) -> tuple[Iterator[str], str]:
    """The distinct paths that ``list_samples`` gives, one by one: a folder's are never all held."""
    if os.path.isdir(manifest):
        base, inside = start_of(manifest, root)
        return (os.path.join(inside, name) for name in files_in(manifest, kind)), base
    columns, base = list_samples(manifest, root, labels=False)
    return iter(dict.fromkeys(columns["path"])), base


def every_nth(names: Iterable[str], at: int, of: int) -> tuple[list[str], int]:
    """The names of the shard ``at`` (from 1) of so many, and how many there are in all."""
    part, count = [], 0
    for count, name in enumerate(names, 1):
        if count % of == at % of:
            part.append(name)
    return part, count


def _write_manifest(
    target: Path, columns: dict[str, list], by_name: dict, kept: list[int], base: str
) -> None:
    """The rows ``kept``, as they were and with what was found."""
    added = [name for name in FOUND if any(entry.get(name) for entry in by_name.values())]
    names = [name for name in columns if name not in FOUND]
    rows = []
    for row in kept:
        entry = by_name[columns["path"][row]]
        fields = {name: columns[name][row] for name in names}
        if base:
            fields["path"] = os.path.join(os.path.abspath(base), fields["path"])
        found = [entry[name] for name in added]
        rows.append([*fields.values(), *("" if value is None else value for value in found)])
    write_table(target, [*names, *added], rows)


def _write_quarantine(
    target: Path, columns: dict[str, list], by_name: dict, kept: set[int], base: str
) -> Path | None:
    """Path and reason of every other row; an old list is removed where there is none."""
    path = target.with_name(f"{target.stem}-quarantine.csv")
    rows = []
    for row, name in enumerate(columns["path"]):
        if row not in kept:
            entry = by_name[name]
            rows.append([os.path.join(base, name), entry["reason"] or entry["note"]])
    if not rows:
        path.unlink(missing_ok=True)
        return None
    write_table(path, ["path", "reason"], rows)
    return path
