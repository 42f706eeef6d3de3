"""The exceptions that end a command with one line instead of a traceback; below every module.

And how names stand in such lines.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class UserError(Exception):
    """Wrong input that the user can correct: a file, a field or a combination of fields.

    The message is one line that names the field or file and how to correct it. The command line
    prints it and exits with code 2.
    """


class DamagedError(UserError):
    """A file that does not hold what was written to it."""


class ConfigError(UserError, ValueError):
    """A field of a configuration whose value cannot be used.

    The message begins with the field's name. It is a ValueError too, for callers from Python.
    """


class RunError(Exception):
    """A run that cannot continue though its input was right, e.g. a loss that is not finite.

    The message is one line. The command line prints it and exits with code 1.
    """


class LostProcess(RunError):
    """Another process of the run has ended, or does not answer.

    The command line exits with that one's code where it is known, else with 1.
    """


class Preempted(BaseException):
    """A run received SIGTERM or SIGUSR1, has saved a checkpoint, and can continue from it.

    Like KeyboardInterrupt it is no Exception: it may be raised at any point, and handlers of
    ordinary failures there (a worker that dies, for example) must not catch it.

    The message is one line. The command line prints it and exits with code 75, EX_TEMPFAIL: start
    the same command again.
    """


@contextmanager
def fields_called(names: Mapping[str, str]) -> Iterator[None]:
    """Around what names fields of a configuration: errors name them as the user gave them here.

    Args:
        names: by what the errors begin with.
    """
    try:
        yield
    except UserError as error:
        field, _, why = str(error).partition(": ")
        if field not in names:
            raise
        raise type(error)(f"{names[field]}: {why}") from error.__cause__


def printable(text: str) -> str:
    r"""``text`` on one line: line breaks, control characters and bytes that are no text as escapes.

    >>> printable("a\nb\udcff.mp4")
    'a\\nb\\udcff.mp4'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell has it."""


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ``error`` ended."""
    codes = {UserError: 2, Preempted: 75, KeyboardInterrupt: INTERRUPTED}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 1)


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return printable(" ".join(str(error).split()))
