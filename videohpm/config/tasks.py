"""What a model with a head is to learn, and by what it is judged."""

from __future__ import annotations

from videohpm.errors import ConfigError

CLASSIFY, MULTI_LABEL, REGRESS = "classify", "multi_label", "regress"
BEST_BY = {
    CLASSIFY: ("top1", "mean_class"),
    MULTI_LABEL: ("map",),
    REGRESS: ("r2", "mse", "mae"),
}
"""By task: the metrics that weights can be best in; the first unless another is given."""
LOWER_IS_BETTER = ("mse", "mae")
TASKS = tuple(BEST_BY)


def best_by(task: str, given: str | None) -> str:
    """The metric that weights are best in. Raises ConfigError for one of another task."""
    if given is None:
        return BEST_BY[task][0]
    if given not in BEST_BY[task]:
        raise ConfigError(
            f"validation.best_by: {given!r} is not one of {', '.join(BEST_BY[task])}, the metrics "
            f"of task {task}"
        )
    return given
