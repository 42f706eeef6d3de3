"""``videohpm export``: the weights of a run, for use elsewhere."""

from __future__ import annotations

from pathlib import Path

from videohpm import checkpoint
from videohpm.config import options
from videohpm.errors import UserError
from videohpm.models.build import encoder_in
from videohpm.writing import complete


def export(source: str, out: str, what: str = "encoder", weights: str = "student") -> None:
    """Write the weights of a run or checkpoint to a folder of their own.

    Args:
        source: run folder (its best weights, else its newest checkpoint) or checkpoint.
        out: folder to write: model.safetensors and config.json, which also says how pixels are
            normalised and, of a classifier, what its classes are called.
        what: encoder alone, or all.
        weights: student or teacher (whose encoder is a moving average of the student's).
    """
    options.export(source, out, what, weights)
    to = Path(out)
    if to.exists() and any(to.iterdir()):
        raise UserError(f"{out}: exists and is not empty; give another folder")
    folder = checkpoint.find_weights(source)
    of_student = weights == "student"
    model = checkpoint.load_model(folder) if of_student else checkpoint.load_teacher(folder).model
    left = () if what == "all" else checkpoint.OF_CLASSIFIER
    described = checkpoint.read_described(folder)
    left = (*checkpoint.OWN, *left)
    extra = {name: value for name, value in described.items() if name not in left}
    to = to.resolve()
    to.parent.mkdir(parents=True, exist_ok=True)
    with complete(to) as partial:
        written = encoder_in(model) if what == "encoder" else model
        checkpoint.save_weights(partial, written, extra=extra)
    print(f"{out}: {what} of the {weights} of {folder}")
