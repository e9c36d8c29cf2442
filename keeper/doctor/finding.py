"""Findings: what was looked at, how bad it is, and what mends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rich.table import Table
from rich.text import Text

from keeper.errors import ConfigError
from keeper.units import WAD


class Mark(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """The keeper can run, and lacks something that it may need."""
    BAD = "bad"
    """It cannot run, or must not."""


STYLES: Mapping[Mark, str | None] = {Mark.OK: None, Mark.WARN: "yellow", Mark.BAD: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found, and what to do about it."""

    what: str
    mark: Mark
    found: str
    mend: str = ""
    silent: bool = False
    """An endpoint did not answer; others of its kind may do."""


class NoDeployment(ConfigError):
    """The deployment cannot be read in the way that is configured."""

    def __init__(self, found: str, mend: str) -> None:
        self.found = found
        self.mend = mend
        """What to do about it."""
        super().__init__(f"{found}; {mend}")


def amount(what: str, wad: int, mend: str) -> Finding:
    """Say how much there is of something that must not be nothing."""
    return Finding(what, Mark.OK if wad else Mark.WARN, f"{wad / WAD:,.4f}", "" if wad else mend)


def table_of(findings: list[Finding]) -> Table:
    """Lay findings out for a person."""
    table = Table("", "", "found", "to mend it")
    for each in findings:
        # As text: brackets in a finding are no markup.
        table.add_row(*map(Text, (each.what, each.mark, each.found, each.mend)), style=STYLES[each.mark])
    return table
