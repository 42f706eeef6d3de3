"""A bound on how long reading one sample may take."""

import threading


class _Call(threading.Thread):
    def __init__(self, function, arguments):
        super().__init__(daemon=True)
        self.function, self.arguments = function, arguments
        self.value = self.error = None

    def run(self) -> None:
        try:
            self.value = self.function(*self.arguments)
        except BaseException as error:  # handed to the caller, whatever it is
            self.error = error


def call_with_timeout(seconds: float, function, *arguments):
    """``function(*arguments)``, or TimeoutError where it takes longer than ``seconds``.

    The call runs in a thread of its own. A decoder that hangs inside native code cannot be stopped,
    only abandoned: its thread stays until the process ends. 0 is no bound.
    """
    if not seconds:
        return function(*arguments)
    call = _Call(function, arguments)
    call.start()
    call.join(seconds)
    if call.is_alive():
        raise TimeoutError(f"no result within {seconds:g} seconds")
    if call.error is not None:
        raise call.error
    return call.value
