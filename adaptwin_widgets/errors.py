"""The one exception a user is meant to read, and how it quotes others."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do.

    The command line prints it and exits with status 2; a widget shows it.

    >>> raise InputError("dev.jsonl, line 3: no 'text' field; add the transcript.")
    Traceback (most recent call last):
    ...
    adaptwin_widgets.errors.InputError: dev.jsonl, line 3: no 'text' field; add the transcript.
    """


def refusal(error: OSError) -> str:
    """What the system would not do, in one sentence: a full disk, a file of somebody else's.

    >>> refusal(PermissionError(13, "Permission denied", "plan.json"))
    'plan.json cannot be used (Permission denied); check the path, its permissions and the room on the disk.'
    """
    what = f"{error.filename} cannot be used ({error.strerror})" if error.filename else reason(error)
    return f"{what}; check the path, its permissions and the room on the disk."


def reason(error: Exception) -> str:
    """The first line of what an error says, to go on with in a sentence.

    >>> reason(OSError("no space left.\\nmore"))
    'no space left'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
