"""The one exception a user is meant to read, and how it quotes others."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do.

    The command line prints it and exits with status 2; a widget shows it.

    >>> raise InputError("dev.jsonl, line 3: no 'text' field; add the transcript.")
    Traceback (most recent call last):
    ...
    adaptwin_widgets.errors.InputError: dev.jsonl, line 3: no 'text' field; add the transcript.
    """


def reason(error: Exception) -> str:
    """The first line of what an error says, to go on with in a sentence.

    >>> reason(OSError("no space left.\\nmore"))
    'no space left'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
