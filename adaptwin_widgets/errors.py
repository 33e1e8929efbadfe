"""The one exception a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do.

    The command line prints it and exits with status 2; a widget shows it.

    >>> raise InputError("dev.jsonl, line 3: no 'text' field; add the transcript.")
    Traceback (most recent call last):
    ...
    adaptwin_widgets.errors.InputError: dev.jsonl, line 3: no 'text' field; add the transcript.
    """
