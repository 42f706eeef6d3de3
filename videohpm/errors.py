"""The exceptions that end a command with one line instead of a traceback; below every module."""


class UserError(Exception):
    """Something the user can mend: a wrong file, field or combination.

    The message is one line that names the field or file and says what to do. The command line
    prints it and exits with code 2.
    """


class ConfigError(UserError, ValueError):
    """A field of a configuration whose value cannot be used.

    The message begins with the field's name. It is a ValueError too, for callers from Python.
    """


class RunError(Exception):
    """A run that cannot go on through nobody's mistake in typing: a loss that is not finite, say.

    The message is one line. The command line prints it and exits with code 1.
    """


class Preempted(BaseException):
    """A run was asked to stop (SIGTERM, SIGUSR1), has left a checkpoint, and can go on from there.

    Like KeyboardInterrupt it is no Exception: it may come at any moment, and whoever handles what
    can go wrong there (a worker that dies, say) must not take it for that.

    The message is one line. The command line prints it and exits with code 75, EX_TEMPFAIL: start
    the same command again.
    """
