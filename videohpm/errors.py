"""The one exception that a user's mistake raises, below every other module."""


class UserError(Exception):
    """Something the user can mend: a wrong file, field or combination.

    The message is one line that names the field or file and says what to do. The command line
    prints it and exits with code 2, without a traceback.
    """
