"""The composite price: the median of what fresh venues say, or why there is none; pure and exact.

The median is taken over all quotes that are fresh and believable, before outliers are left out: one liar
among three or more can never move it out of the range of the honest, and neither can two among five. Whoever
is further from it than ``outlier_bps`` is dropped; with an even number it is the mean of the middle two, so
that two that disagree are both dropped, and so are two against two: no side is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from keeper.domain import Quote, Unknown
from keeper.feeds.heard import VenueQuote
from keeper.units import BPS, WAD, Bps, FeedId, Wad


@dataclass(frozen=True, slots=True)
class Params:
    """What is asked of the venues."""

    min_venues: int = 2
    max_age_ms: int = 3_000
    """Of a quote, or of the last sign of life where quotes stand until the next."""
    max_standing_ms: int = 60_000
    """How long a quote may stand unchanged, whatever else its venue says."""
    max_future_ms: int = 500
    outlier_bps: Bps = 100
    """Farthest from the median, and widest half spread."""
    max_dispersion_bps: Bps = 150


class Offer(NamedTuple):
    """What one venue says for one feed."""

    venue: str
    quote: VenueQuote | str
    """Or why there is none."""
    stands_ms: int = 0
    """When the venue was last heard, where its quotes stand until the next."""
    rate: Quote | Unknown | None = None
    """The price of what it is quoted in, where that is not the quote of the feed."""


class Composite(NamedTuple):
    """A price with the venues it is of, and why the others are not among them."""

    quote: Quote | Unknown
    used: tuple[str, ...]
    dropped: Mapping[str, str]


Believed: TypeAlias = tuple[Wad, Wad, int, str]
"""Mid, half width, when it was so in milliseconds, venue; the first two in the quote of the feed."""


def compose(feed: FeedId, offers: Sequence[Offer], now_ms: int, params: Params) -> Composite:
    """Compose one price out of what venues say at ``now_ms``.

    The result is as old as the oldest quote in it. Its confidence is the half width that covers every quote
    used and the spread of the middle ones; its dispersion is how far apart the quotes used are.
    """
    dropped: dict[str, str] = {}
    fresh: list[Believed] = []
    for offer in offers:
        believed = _believed(offer, now_ms, params)
        if isinstance(believed, str):
            dropped[offer.venue] = believed
        else:
            fresh.append(believed)
    fresh.sort()
    used = _near(fresh, dropped, params.outlier_bps)
    if len(used) < params.min_venues:
        why = f"{len(used)} of {len(offers)} venues agree, {params.min_venues} needed"
        return Composite(Unknown(feed, _with(why, dropped)), (), dropped)
    low, high = fresh[(len(fresh) - 1) // 2], fresh[len(fresh) // 2]
    least_wad, most_wad, price_wad = used[0][0], used[-1][0], (low[0] + high[0]) // 2
    dispersion_bps = -((least_wad - most_wad) * BPS // price_wad)
    if dispersion_bps > params.max_dispersion_bps:
        why = f"the venues are {dispersion_bps} bps apart, bound {params.max_dispersion_bps} bps"
        return Composite(Unknown(feed, _with(why, dropped)), (), dropped)
    top_wad = max(most_wad, low[0] + low[1], high[0] + high[1])
    bottom_wad = min(least_wad, low[0] - low[1], high[0] - high[1])
    half_wad = max(top_wad - price_wad, price_wad - bottom_wad)
    confidence_bps = -(-half_wad * BPS // price_wad)
    at_s = min(now_ms, *[each[2] for each in used]) // 1000
    quote = Quote(feed, price_wad, at_s, confidence_bps, dispersion_bps)
    return Composite(quote, tuple([each[3] for each in used]), dropped)


def _near(fresh: list[Believed], dropped: dict[str, str], outlier_bps: Bps) -> list[Believed]:
    """Return those that are near the median of all, in order; name the others."""
    if not fresh:
        return []
    # Twice the median, so that the middle two of an even number are equally far from it, to the unit.
    twice = fresh[(len(fresh) - 1) // 2][0] + fresh[len(fresh) // 2][0]
    bound = outlier_bps * twice
    if max(twice - 2 * fresh[0][0], 2 * fresh[-1][0] - twice) * BPS <= bound:
        return fresh
    used = []
    for each in fresh:
        off = abs(2 * each[0] - twice) * BPS
        if off <= bound:
            used.append(each)
        else:
            dropped[each[3]] = f"{-(-off // twice)} bps off the median, bound {outlier_bps} bps"
    return used


def _with(why: str, dropped: Mapping[str, str]) -> str:
    return "; ".join((why, *(f"{venue}: {reason}" for venue, reason in dropped.items())))


def _believed(offer: Offer, now_ms: int, params: Params) -> Believed | str:
    """Return a quote that is fresh and whole, in the quote of the feed; or why it is not."""
    venue, quote, stands_ms, rate = offer
    if isinstance(quote, str):
        return quote
    bid_wad, ask_wad, heard_ms, lag_ms = quote
    seen_ms = max(heard_ms, stands_ms) - lag_ms
    age_ms = now_ms - seen_ms
    if age_ms > params.max_age_ms:
        return f"{age_ms} ms old, bound {params.max_age_ms} ms"
    if -age_ms > params.max_future_ms:
        return f"{-age_ms} ms in the future, bound {params.max_future_ms} ms"
    if now_ms - heard_ms > params.max_standing_ms:
        return f"unchanged for {now_ms - heard_ms} ms, bound {params.max_standing_ms} ms"
    if not 0 < bid_wad <= ask_wad:
        return f"crossed: bid {bid_wad}, ask {ask_wad}"
    mid_wad, half_wad = (bid_wad + ask_wad) // 2, (ask_wad - bid_wad + 1) // 2
    if half_wad * BPS > params.outlier_bps * mid_wad:
        return f"half spread above {params.outlier_bps} bps"
    if rate is None:
        return mid_wad, half_wad, seen_ms, venue
    if isinstance(rate, Unknown):
        return f"{rate.what} is unknown"
    price_wad = rate.price_wad
    mid_wad = mid_wad * price_wad // WAD
    if mid_wad == 0:
        return f"nothing when converted by {rate.feed}"
    half_wad = -(-half_wad * price_wad // WAD) - (-mid_wad * rate.confidence_bps // BPS)
    return mid_wad, half_wad, min(seen_ms, 1000 * rate.observed_at_s), venue
