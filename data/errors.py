"""The one exception that means "the user can mend this", and the one warning that means "the user should know this"."""


class UserError(ValueError):
    """A mistake in the input, told in one line: the file or field, what was expected, what came, what to do.

    Scripts print the message without a traceback and exit with status 2.
    """


class DiskFullError(UserError):
    """No room left where an output is written: it stops the whole run, where another `UserError` may stop one drive only."""


class UserNotice(UserWarning):
    """What a user should know though nothing is wrong, in one line; scripts print it as such."""
