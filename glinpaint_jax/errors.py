"""The one kind of error that users cause and can mend."""


class UserError(Exception):
    """Bad input. Programs print its message as one line and exit with status 1, no traceback.

    The message says the value found, what is allowed, and the remedy.
    """
