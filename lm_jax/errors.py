"""The one class for a user's mistake."""


class UserError(ValueError):
    """A request that cannot be carried out as it stands, in one line: the cause and the remedy.

    Commands print the line and exit with code 2; nothing is lost. A `ValueError`, so that callers from
    Python need not know this class.

    Args:
        cause: what is wrong, naming the file, field or value.
        remedy: what to do or type instead.
    """

    def __init__(self, cause: str, remedy: str = ""):
        self.cause = " ".join(cause.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{self.cause}; {self.remedy}" if remedy else self.cause)
