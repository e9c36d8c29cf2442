"""The scenarios, and how each ends: by protocol, for every preset alike or for each of the three.

An end is what the journal says, by the number of the block in the table. The account is in breach below 0.97.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeper.confirm.policy import BALANCED, PRESETS, Policy
from tests.scenarios.stage import HYBRID, MORPHO, VENUS, Beat


@dataclass(frozen=True, slots=True)
class Story:
    """A table of blocks, and what comes of it."""

    name: str
    beats: tuple[Beat, ...]
    ends: dict[str, str | tuple[str, ...]]
    """By protocol: one for all presets, one for each of the three, or one for the faster two and another.
    In a pool it ends as on Morpho Blue, where nothing else is said."""

    def end(self, protocol: str, policy: Policy) -> str:
        """Return what is to be journaled."""
        found = self.ends.get(protocol, self.ends[MORPHO])
        if isinstance(found, str):
            return found
        return found[max(0, policy.rank - len(PRESETS) + len(found))]

    def policies(self, protocol: str) -> tuple[Policy, ...]:
        """Return all presets where they make a difference; one where they do not."""
        return (BALANCED,) if isinstance(self.ends[protocol], str) else PRESETS


_FLAGGED = "Suspected, Reserved flag, Sent"
_ALARMED = "Included, Suspected, Waited confirm.min_blocks"
_CONFIRMED = "Moved confirmed, Reserved confirm, Sent"
_SLICED = "Included, Suspected, Reserved liquidate, Sent"
_AGAIN = "Included, Suspected, Moved deleveraging, Waited slope.step_cap"
_DOUBTED = "1: Called; 2: Suspected, Waited"
_REPAID = "Moved confirmed, Reserved repay, Sent"
_CALLED = "Included, Taken, Called"

STORIES = (
    Story(
        "a false wick of the market",
        (Beat(), Beat(fast=0.95), Beat(fast=1.0), Beat(times=3)),
        {
            # Its flag is refused by the contract, whose price is back before it is included.
            HYBRID: f"2: {_FLAGGED}; 3: Reverted, Closed",
            MORPHO: f"{_DOUBTED} confirm.oracle_lags; 3: Called",
        },
    ),
    Story(
        "a false wick of the oracle",
        (Beat(), Beat(chain=0.95), Beat(chain=1.0), Beat(times=3)),
        {
            HYBRID: "",
            MORPHO: (
                f"{_DOUBTED} confirm.fast_disagrees; 3: Called",
                f"{_DOUBTED} confirm.min_blocks; 3: Called",
            ),
        },
    ),
    Story(
        "a stale oracle, until it answers",
        (Beat(), Beat(fast=0.95, chain=0.95, aged_s=100_000), Beat(times=3), Beat(chain=0.95), Beat(times=4)),
        {
            HYBRID: f"2: {_FLAGGED}; 3: {_ALARMED}; 4: Waited confirm.slow_evidence; 6: {_CONFIRMED};"
            f" 7: {_SLICED}; 8: {_AGAIN}; 10: Reserved liquidate, Sent",
            MORPHO: (f"{_DOUBTED} oracle.stale; 6: {_REPAID}; 7: {_CALLED}",),
        },
    ),
    Story(
        "a depeg at one venue",
        (Beat(), Beat(depegged=0.5, times=4), Beat(depegged=1.0)),
        {HYBRID: "", MORPHO: "1: Called"},
    ),
    Story(
        "an oracle that jumps before the market, which follows",
        (Beat(), Beat(chain=0.95), Beat(), Beat(fast=0.95), Beat(times=4)),
        {
            HYBRID: f"4: {_FLAGGED}; 5: {_ALARMED}; 6: {_CONFIRMED}; 7: {_SLICED}; 8: {_AGAIN}",
            MORPHO: (
                f"{_DOUBTED} confirm.fast_disagrees; 4: {_REPAID}; 5: {_CALLED}",
                (
                    f"{_DOUBTED} confirm.min_blocks; 3: Waited confirm.fast_disagrees;"
                    f" 4: {_REPAID}; 5: {_CALLED}"
                ),
            ),
        },
    ),
    Story(
        "an oracle that jumps, and is corrected late",
        (Beat(), Beat(chain=0.95), Beat(times=4), Beat(chain=1.0), Beat()),
        {
            HYBRID: "",
            MORPHO: (
                f"{_DOUBTED} confirm.fast_disagrees; 7: Called",
                f"{_DOUBTED} confirm.min_blocks; 3: Waited confirm.fast_disagrees; 7: Called",
            ),
        },
    ),
    Story(
        "a market that falls between two heads, after the oracle",
        (Beat(), Beat(chain=0.95, ticks=(0.99, 0.96)), Beat(times=3)),
        {
            HYBRID: "2: Suspected, Waited alarm.not_on_chain; 3: Reserved flag, Sent;"
            f" 4: {_ALARMED}; 5: Waited confirm.slow_evidence",
            MORPHO: (
                f"{_DOUBTED} confirm.fast_disagrees, {_REPAID}; 3: {_CALLED}",
                f"{_DOUBTED} confirm.min_blocks; 3: {_REPAID}; 4: {_CALLED}",
            ),
        },
    ),
    Story(
        "a slow grind",
        (Beat(), *(Beat(fast=1 - step / 200, chain=1 - step / 200) for step in range(1, 10)), Beat(times=4)),
        {
            HYBRID: "6: Called; 7: Suspected, Waited alarm.not_on_chain; 8: Reserved flag, Sent;"
            f" 9: {_ALARMED}; 10: {_CONFIRMED}; 11: {_SLICED}; 12: {_AGAIN}; 14: Reserved liquidate, Sent",
            MORPHO: (
                f"1: Called; 8: Suspected, {_REPAID}; 9: {_CALLED}",
                # The oracle answers in every block; two blocks before, it showed the breach already.
                f"1: Called; 8: Suspected, Waited confirm.min_blocks; 9: {_REPAID}; 10: {_CALLED}",
            ),
        },
    ),
    Story(
        "a gap crash",
        (Beat(), Beat(fast=0.93), Beat(chain=0.93), Beat(times=8)),
        {
            HYBRID: f"2: {_FLAGGED}; 3: {_ALARMED}; 4: {_CONFIRMED}; 5: {_SLICED}; 6: {_AGAIN};"
            " 8: Reserved liquidate, Sent; 9: Included, Closed",
            MORPHO: (
                f"{_DOUBTED} confirm.oracle_lags; 3: {_REPAID}; 4: {_CALLED}",
                (f"{_DOUBTED} confirm.oracle_lags; 3: Waited confirm.shallow; 4: {_REPAID}; 5: {_CALLED}"),
            ),
        },
    ),
    Story(
        "a gap crash beyond what the account has",
        (Beat(), Beat(fast=0.75), Beat(), Beat(chain=0.75), Beat(times=4)),
        {
            HYBRID: f"2: Suspected, Moved backstop, Reserved flag, Sent; 3: {_ALARMED};"
            f" 4: Reserved confirm, Sent; 5: {_SLICED}; 6: Included, Closed",
            # So far apart, the clocks raise the book: `balanced` is slower by then. One has a breaker.
            MORPHO: (
                (
                    f"{_DOUBTED} confirm.oracle_lags;"
                    " 4: Moved backstop, Reserved repay, Sent; 5: Included, Taken, Closed"
                ),
                (
                    f"{_DOUBTED} confirm.oracle_lags; 4: Moved backstop, Waited confirm.shallow;"
                    " 5: Reserved repay, Sent; 6: Included, Taken, Closed"
                ),
                (
                    "1: Called; 2: Suspected, Refused oracle.breaker; 3: Refused oracle.tripped;"
                    " 4: Moved backstop"
                ),
            ),
            # Half of a debt at the most: the owner would be left with less than before.
            VENUS: f"{_DOUBTED} confirm.oracle_lags; 4: Moved backstop, Waited confirm.shallow;"
            " 5: Refused size.harm",
        },
    ),
    Story(
        "a fall that somebody else acts on first",
        (Beat(), Beat(fast=0.95), Beat(times=3), Beat(taken=True), Beat()),
        {
            HYBRID: f"2: {_FLAGGED}; 3: {_ALARMED}; 4: Waited confirm.slow_evidence;"
            " 6: Taken, Closed, left to others by confirm.slow_evidence",
            MORPHO: f"{_DOUBTED} confirm.oracle_lags;"
            " 6: Taken, Closed, left to others by confirm.oracle_lags",
        },
    ),
    Story(
        "an oracle that jumps before the market does, and others who follow it",
        (Beat(), Beat(chain=0.95), Beat(times=2), Beat(taken=True), Beat()),
        {
            HYBRID: "",
            MORPHO: (
                (
                    f"{_DOUBTED} confirm.fast_disagrees;"
                    " 5: Taken, Closed, left to others by confirm.fast_disagrees"
                ),
                (
                    f"{_DOUBTED} confirm.min_blocks; 3: Waited confirm.fast_disagrees;"
                    " 5: Taken, Closed, left to others by confirm.fast_disagrees"
                ),
            ),
        },
    ),
    Story(
        "a fast price that falls silent, and others who need none",
        (Beat(), Beat(silent=True), Beat(chain=0.95), Beat(times=2), Beat(taken=True), Beat()),
        {
            HYBRID: f"3: {_FLAGGED}; 4: {_ALARMED}; 5: Waited confirm.slow_evidence;"
            " 6: Taken, Closed, left to others by confirm.slow_evidence",
            MORPHO: "1: Called; 3: Suspected, Waited confirm.min_blocks; 4: Waited confirm.unsupported;"
            " 6: Taken, Closed, left to others by confirm.unsupported",
        },
    ),
    Story(
        "a fast price that falls silent",
        (
            Beat(),
            Beat(silent=True),
            Beat(chain=0.95),
            Beat(times=4),
            Beat(silent=False, fast=0.95),
            Beat(times=3),
        ),
        {
            HYBRID: f"3: {_FLAGGED}; 4: {_ALARMED}; 5: Waited confirm.slow_evidence; 8: {_CONFIRMED};"
            f" 9: {_SLICED}; 10: {_AGAIN}",
            # Half of all feeds are lost: whatever the preset, it is as cautious as it gets.
            MORPHO: "1: Called; 3: Suspected, Waited confirm.min_blocks; 4: Waited confirm.unsupported;"
            f" 8: {_REPAID}; 9: {_CALLED}",
        },
    ),
    Story(
        "a reorg that takes back what was included",
        (Beat(), Beat(fast=0.95, chain=0.95), Beat(), Beat(reorg=1, mined=False), Beat(times=4)),
        {
            HYBRID: f"2: {_FLAGGED}; 3: {_ALARMED}; 4: Unincluded; 5: Included, Suspected; 6: {_CONFIRMED};"
            f" 7: {_SLICED}; 8: {_AGAIN}",
            MORPHO: (
                f"1: Called; 2: Suspected, {_REPAID}; 3: {_CALLED}; 4: Unincluded; 5: {_CALLED}",
                f"{_DOUBTED} confirm.min_blocks; 3: {_REPAID}; 5: {_CALLED}",
            ),
        },
    ),
    Story(
        "an owner who pays in",
        (Beat(), Beat(fast=0.95), Beat(deposit=0.5), Beat(times=3)),
        {
            HYBRID: f"2: {_FLAGGED}; 3: Included, Suspected, Reserved cure, Sent; 4: Included, Closed",
            MORPHO: f"{_DOUBTED} confirm.oracle_lags; 3: Closed",
        },
    ),
    Story(
        "a transaction that reverts",
        (Beat(), Beat(fast=0.95, chain=0.95), Beat(reverts=True), Beat(times=6)),
        {
            HYBRID: f"2: {_FLAGGED}; 3: Reverted, Suspected, Refused limit.backoff; 6: Reserved flag, Sent;"
            f" 7: {_ALARMED}; 8: {_CONFIRMED}; 9: {_SLICED}",
            MORPHO: (
                (
                    f"1: Called; 2: Suspected, {_REPAID}; 3: Reverted, Suspected, Refused limit.backoff;"
                    f" 6: Reserved repay, Sent; 7: {_CALLED}"
                ),
                f"{_DOUBTED} confirm.min_blocks; 3: {_REPAID}; 4: {_CALLED}",
            ),
        },
    ),
)
NEVER_FOLLOWS = Story(
    "a fall that the oracle never follows, with half an hour's patience",
    (Beat(), Beat(fast=0.95), Beat(times=152)),
    {
        HYBRID: f"2: {_FLAGGED}; 3: {_ALARMED}; 4: Waited confirm.slow_evidence",
        MORPHO: f"{_DOUBTED} confirm.oracle_lags; 152: Called confirm.timed_out;"
        " 153: Suspected, Waited confirm.oracle_lags",
    },
)
