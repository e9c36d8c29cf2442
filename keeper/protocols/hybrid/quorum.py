"""Which reports the fast oracle takes together, and what it says then; mirrors FastOracle.sol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain import Bundle, FeedView, OracleView, Quote, Reason, Report
from keeper.units import BPS, FeedId, UnixS, Wad

MAX_SPREAD_S: Final = 10
MAX_CONFIDENCE_BPS: Final = 100
MAX_DISPERSION_BPS: Final = 300
POSTED: Final = "report.not_newer"


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who may sign reports, and how many of them a bundle has to come from: an odd number, more than half."""

    signers: tuple[str, ...]
    """Addresses in lower case."""
    size: int

    def turn(self, at_s: UnixS, patience_s: int) -> str:
        """Return whose turn it is to post at a head of time ``at_s``.

        One signer after the other, in the order of their addresses, has ``patience_s``; whoever lets it pass
        is followed by the next. The head alone decides: all who see the same one agree, after a restart too,
        whatever each thinks of prices and of the others.
        """
        order = sorted(self.signers)
        return order[at_s // patience_s % len(order)]


def said_by(bundle: Bundle) -> Quote:
    """Return what the oracle says once it has taken a bundle: its median, as old as its oldest report."""
    observations = [report.observation for report in bundle]
    prices = sorted(each.price_wad for each in observations)
    oldest_s = min(each.observed_at_s for each in observations)
    return Quote(observations[0].feed, prices[len(prices) // 2], oldest_s)


def posted(oracles: OracleView, bundles: Mapping[FeedId, Bundle], at_s: UnixS) -> OracleView:
    """Return the chain's view of prices as it is after bundles were posted in a block at ``at_s``.

    Whether a sequencer is down cannot be told behind a price that is too old: then it is taken to be up.
    """
    feeds = dict(oracles.feeds)
    for feed, bundle in bundles.items():
        said, view = said_by(bundle), feeds[feed]
        aged = at_s - view.fast_observed_at_s > view.fast_max_age_s
        feeds[feed] = replace(
            view,
            fast_wad=said.price_wad,
            fast_observed_at_s=said.observed_at_s,
            fast_ok=view.fast_ok or aged,
        )
    return replace(oracles, feeds=feeds)


def pick(reports: Iterable[Report], quorum: Quorum, view: FeedView, at_s: UnixS) -> Bundle | None:
    """Choose the bundle of one feed that a block at ``at_s`` takes; None where there is no quorum.

    Of what each signer said last that the contract would take, those observed about when most of them were;
    of these, in the order of their prices, the neighbours that lie closest together. A quorum is more than
    half of the signers, so that any such neighbours hold the median of all. With (K - 1) / 2 liars the median
    stays between honest values, whichever are picked; the closest ones leave out a liar who would have the
    contract refuse the bundle for its dispersion, and up to n - K liars if all who are honest were heard:
    K honest values then lie as close together as they do, and liars who want to be picked must lie closer.
    """
    newest: dict[str, Report] = {}
    for report in reports:
        if report.signer in quorum.signers and unusable(report, view, at_s) is None:
            held = newest.get(report.signer)
            if held is None or report.observation.observed_at_s > held.observation.observed_at_s:
                newest[report.signer] = report
    times = sorted(report.observation.observed_at_s for report in newest.values())
    if len(times) < quorum.size:
        return None
    middle_s = times[len(times) // 2]
    together = [
        report
        for report in newest.values()
        if abs(report.observation.observed_at_s - middle_s) * 2 <= MAX_SPREAD_S
    ]
    together.sort(key=lambda report: (report.observation.price_wad, report.signer))
    runs = [together[i : i + quorum.size] for i in range(len(together) - quorum.size + 1)]
    closest = min(runs, key=_width_wad, default=None)
    if closest is None or _width_wad(closest) * BPS > MAX_DISPERSION_BPS * said_by(tuple(closest)).price_wad:
        return None
    return tuple(closest)


def unusable(report: Report, view: FeedView, at_s: UnixS) -> Reason | None:
    """Say why a bundle with this report would be refused, or passed over, in a block at ``at_s``."""
    seen = report.observation
    age_s = at_s - seen.observed_at_s
    if seen.price_wad <= 0:
        return Reason("report.no_price", f"{seen.feed} at {seen.price_wad}", "> 0")
    if seen.confidence_bps > MAX_CONFIDENCE_BPS:
        return Reason("report.unconfident", f"{seen.confidence_bps} bps", f"<= {MAX_CONFIDENCE_BPS} bps")
    if age_s < 0:
        return Reason("report.from_future", f"observed {-age_s} s after the next block", "before it")
    if age_s > view.fast_max_age_s:
        return Reason("report.too_old", f"{age_s} s old in the next block", f"<= {view.fast_max_age_s} s")
    if at_s > seen.valid_until_s:
        return Reason(
            "report.past_validity", f"over since {at_s - seen.valid_until_s} s", "in the next block"
        )
    if seen.observed_at_s <= view.fast_observed_at_s:
        return Reason(POSTED, f"observed at {seen.observed_at_s}", f"after {view.fast_observed_at_s}")
    return None


def unusable_among(
    reports: Iterable[Report], views: Mapping[FeedId, FeedView], at_s: UnixS
) -> Iterator[tuple[str, Reason]]:
    """Yield signers whose reports do not count, and why; that one is posted already is in order."""
    for report in reports:
        view = views.get(report.observation.feed)
        reason = unusable(report, view, at_s) if view else None
        if reason is not None and reason.rule != POSTED:
            yield report.signer, reason


def _width_wad(run: Sequence[Report]) -> Wad:
    return run[-1].observation.price_wad - run[0].observation.price_wad
