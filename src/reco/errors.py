"""The one exception that a person is meant to read."""


class RecoError(Exception):
    """Something a user can mend: the message names the file or key and the remedy.

    The command line prints it as one line and exits with status 1; any other exception is a bug
    and keeps its traceback.
    """
