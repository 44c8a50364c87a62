"""What an audit found, as a row of results keeps it: `lm_jax.audit` makes it."""

import math
from typing import Any, NamedTuple

from lm_jax.errors import UserError
from lm_jax.files import JsonObject

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"
# In the order of reports.
CHECKS = ("normalised", "causal", "complete", "one_distribution", "independent")
_NULL = type(None)


class Check(NamedTuple):
    """The outcome of one check.

    Attributes:
        name: one of `CHECKS`.
        status: "passed", "failed" or "not applicable".
        what: what was compared, or why the check does not apply.
        compared: how many values were compared.
        error: the largest error, in nats, in probability or in bytes, as `what` says; infinite where a value
            is no number or is missing; None where nothing was compared.
        tolerance: the largest error that is allowed.
        where: the place of the largest error; "" where there is none.
    """

    name: str
    status: str
    what: str
    compared: int = 0
    error: float | None = None
    tolerance: float | None = None
    where: str = ""

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def line(self) -> str:
        """The outcome in a line, with the largest error and its place where the check has failed."""
        if self.status == FAILED:
            return f"{self.title} failed: error {self.error:.3g} at {self.where}; {self.what}"
        return f"{self.title} {self.status}: {self.what}"

    def as_json(self) -> dict[str, Any]:
        """A JSON object; an infinite error is null."""
        error = self.error if self.error is not None and math.isfinite(self.error) else None
        return {**self._asdict(), "error": error}


class Audit(NamedTuple):
    """The checks of one model on samples of one text.

    Attributes:
        checks: one of each kind.
        sampled: what was sampled: the seed; `passages`, [document, first byte, byte after the last] each;
            `histories`, [number of the passage, number of tokens before the one that was predicted] each;
            and the sums `bytes` and `tokens`.
    """

    checks: tuple[Check, ...]
    sampled: dict[str, Any]

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == FAILED]

    def line(self) -> str:
        """One short line: the names of the checks by their outcome."""
        groups = [
            (status, ", ".join(check.title for check in self.checks if check.status == status))
            for status in (PASSED, NOT_APPLICABLE, FAILED)
        ]
        return "audit: " + "; ".join(f"{names} {status}" for status, names in groups if names)

    def as_json(self) -> dict[str, Any]:
        """A JSON object, which `read` reads."""
        return {"checks": [check.as_json() for check in self.checks], "sampled": self.sampled}


def read(fields: JsonObject) -> Audit:
    """The audit that `Audit.as_json` wrote.

    Raises:
        UserError: a field that is missing or of another type.
    """
    inner = [
        JsonObject(check, f"{fields.where}, check {i}") for i, check in enumerate(fields.take("checks", list))
    ]
    return Audit(tuple(map(_read_check, inner)), fields.take("sampled", dict))


def _read_check(fields: JsonObject) -> Check:
    status, error = fields.take("status", str), fields.take("error", float, _NULL)
    if status not in (PASSED, FAILED, NOT_APPLICABLE):
        raise UserError(f"{fields.where}: status={status!r} is unknown", "restore the file")
    return Check(
        name=fields.take("name", str),
        status=status,
        what=fields.take("what", str),
        compared=fields.take("compared", int),
        error=math.inf if error is None and status == FAILED else error,
        tolerance=fields.take("tolerance", float, _NULL),
        where=fields.take("where", str),
    )
