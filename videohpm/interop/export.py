"""``videohpm export``: the weights of a run, for use elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from videohpm import checkpoint
from videohpm.compat import upgrade_config
from videohpm.config.convert import export as check_options
from videohpm.errors import UserError
from videohpm.models.build import encoder_in
from videohpm.writing import complete


def export(source: str, out: str, what: str = "encoder", weights: str = "student") -> None:
    """Write the weights of a run or checkpoint to a folder of their own.

    Args:
        source: run folder (its best weights, else its newest checkpoint) or checkpoint.
        out: folder to write: model.safetensors and config.json, which also says how pixels are
            normalised, what the classes of a classifier are called and, of all of a pre-trained
            model, what pictures of it need: its masks, and whose features it predicts.
        what: encoder alone, or all.
        weights: student or teacher (whose encoder is a moving average of the student's).
    """
    check_options(source, out, what, weights)
    to = Path(out)
    checkpoint.check_writable(to, "out")
    if to.exists() and any(to.iterdir()):
        raise UserError(f"{out}: exists and is not empty; give another folder")
    folder = checkpoint.find_weights(source)
    of_student = weights == "student"
    model = checkpoint.load_model(folder) if of_student else checkpoint.load_teacher(folder).model
    left = checkpoint.OWN if what == "all" else (*checkpoint.OWN, *checkpoint.OF_WHOLE)
    extra = pretraining_of(folder) | checkpoint.read_described(folder)
    extra = {name: value for name, value in extra.items() if name not in left}
    to = to.resolve()
    to.parent.mkdir(parents=True, exist_ok=True)
    with complete(to) as partial:
        written = encoder_in(model) if what == "encoder" else model
        checkpoint.save_weights(partial, written, extra=extra)
    print(f"{out}: {what} of the {weights} of {folder}")


def pretraining_of(folder: Path) -> dict[str, Any]:
    """``pretraining`` of an export: of a pre-training run's state.json what pictures depend on.

    As the file has it, without what is of this machine. Nothing where there is no such file.
    """
    file = folder / "state.json"
    try:
        state = json.loads(file.read_text())
        sections = upgrade_config(state["config"])
        config = {name: sections[name] for name in ("model", "mask", "hpm")}
        kept = (*checkpoint.CUT, "mean", "std")
        config["data"] = {name: value for name, value in sections["data"].items() if name in kept}
        known = {name: state[name] for name in ("step", "steps", "score_center") if name in state}
    except (FileNotFoundError, KeyError):  # an export; of fine-tuning, or written by hand
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged ({error!r})") from None
    return {"pretraining": known | {"config": config}}
