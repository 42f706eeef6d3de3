"""One call that reads any layout known here and writes another."""

from __future__ import annotations

from pathlib import Path

from videohpm import hub
from videohpm.config import ReadOptions
from videohpm.config.convert import convert as check_options
from videohpm.errors import RunError, UserError
from videohpm.interop import huggingface, mae, mae_st, native, timm, videomae
from videohpm.interop.card import write_card
from videohpm.interop.core import Weights
from videohpm.interop.files import read_source
from videohpm.interop.inflate import inflate
from videohpm.interop.report import ConversionReport
from videohpm.models import MAEConfig
from videohpm.writing import complete, full_disk

READERS = (huggingface, videomae, mae_st, mae, timm)
"""Asked in this order whether they recognise a source."""
WRITERS = {layout.NAME: layout for layout in (native, videomae, huggingface, timm, mae)}


def read_weights(source: str | Path, **options) -> tuple[Weights, ConversionReport]:
    """The model in ``source``, whatever its layout, and a report of what became of its tensors.

    Args:
        source: a checkpoint file, a folder with one, a run folder of videohpm's, or the name of a
            model on the Hugging Face Hub.
        options: fields of :class:`videohpm.interop.ReadOptions`.

    Raises UserError, one line, for what cannot be read, recognised or accounted for.
    """
    chosen = ReadOptions(**options)
    report = ConversionReport(str(source))
    weights = _read(hub.resolve(source), report, chosen)
    if chosen.inflate is not None:
        inflate(weights, chosen.inflate, chosen.frames or 16, report)
    _refuse_ignored(weights, report.source, chosen)
    report.kind, report.config = weights.kind, weights.config
    return weights, report


def _refuse_ignored(weights: Weights, source: str, options: ReadOptions) -> None:
    """UserError for a size that was given and is not the model's: its layout states its own."""
    encoder = weights.encoder_config
    has = {name: getattr(encoder, name) for name in ("frames", "image_size", "heads")}
    if isinstance(weights.config, MAEConfig):
        has["decoder_heads"] = weights.config.decoder.heads
    for name in ("frames", "image_size", "heads", "decoder_heads"):
        given = getattr(options, name)
        if given is None or given == has.get(name):
            continue
        if name not in has:
            raise UserError(f"{name}: {given}, but no decoder is read of {source}; leave it out")
        pair = isinstance(has[name], tuple)
        own = "x".join(map(str, has[name])) if pair else has[name]
        image = name == "frames" and own == 1
        also = ", or give --inflate too" if image else ""
        raise UserError(f"{name}: {given}, but {source} has {own}; leave it out{also}")


def _read(source: Path, report: ConversionReport, options: ReadOptions) -> Weights:
    folder = native.find(source)
    if folder is not None:
        return native.read(folder, report, options)
    found = read_source(source)
    for layout in READERS:
        name = layout.recognise(found)
        if name is None:
            continue
        report.layout = name
        if found.stripped:
            report.note(f"taken off the names: {', '.join(found.stripped)}")
        if options.weights == "ema" and layout is not mae:
            raise UserError(f"weights: {source} ({name}) holds no moving average to take")
        return layout.read(found, report, options)
    names = ", ".join(list(found.tensors)[:3])
    raise UserError(
        f"{source}: no known layout (videohpm, VideoMAE, Hugging Face VideoMAE, MAE or HPM, "
        f"mae_st, timm ViT) has these tensors: {names}, ..."
    )


def convert(
    source: str | Path,
    out: str | Path,
    to: str = "videohpm",
    *,
    what: str = "all",
    data: str | None = None,
    metrics: dict[str, float] | None = None,
    license: str | None = None,
    push: str | None = None,
    private: bool = False,
    **options,
) -> ConversionReport:
    """Convert a checkpoint to another layout; the source's is recognised.

    Args:
        source: a checkpoint file, a folder with one, a run folder of videohpm's (its best weights,
            else its newest checkpoint), or the name of a model on the Hugging Face Hub (org/name).
        out: a folder to make; a failure leaves nothing behind.
        to: videohpm, videomae, huggingface, timm or mae.
        what: ``all``, or ``encoder``: the encoder alone.
        data: what it was trained on, for the model card.
        metrics: how well it does, for the model card, for example '{"top1": 70.8}'.
        license: the Hub's identifier of a licence, for the model card.
        push: upload what was written as this model of the Hub, org/name or org/name@branch.
        private: of a new model there: whether only its owners see it.
        options: fields of :class:`videohpm.interop.ReadOptions`.

    Returns:
        The account of every tensor; ``print`` it.
    """
    check_options(str(source), str(out), to, what=what, push=push, private=private, **options)
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"out: {out} exists and is not empty; give another folder")
    weights, report = read_weights(source, **options)
    if what == "encoder":
        weights = weights.encoder(report)
    report.target, report.out = to, str(out)
    out = out.resolve()
    try:
        with complete(out) as partial:
            partial.mkdir(parents=True)
            _write(weights, partial, to, report)
            write_card(weights, partial, report, data, metrics, license)
    except OSError as error:
        if full_disk(error):
            raise
        raise UserError(f"out: {out} cannot be written ({error.strerror})") from None
    if push is not None:
        try:
            report.pushed = hub.push(out, push, private)
        except (UserError, RunError) as error:
            raise type(error)(f"{error}; {out} is complete") from None
    return report


def _write(weights: Weights, folder: Path, to: str, report: ConversionReport) -> None:
    if weights.teacher is not None and to not in ("videohpm", "mae"):
        for name in weights.teacher:
            report.not_written[f"teacher: {name}"] = "the layout has no teacher"
    if to not in ("videohpm", "huggingface") and weights.extra.get("task"):
        report.note(
            f"task: the layout does not say what the outputs mean ({weights.extra['task']}), and "
            "its programs will take them for one class a sample"
        )
    if to in ("videomae", "mae"):
        lost = [name for name in ("labels", "mean", "std") if name in weights.extra]
        if lost:
            report.note(f"{', '.join(lost)}: the layout has no place for them; see README.md there")
    WRITERS[to].write(weights, folder, report)
