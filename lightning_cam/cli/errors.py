"""What ends a command with one line instead of a traceback."""


class CommandError(Exception):
    """Something outside of this program is not as it must be: exit status 1."""


class UsageError(CommandError):
    """The command was used wrongly, the message says how: exit status 2."""
