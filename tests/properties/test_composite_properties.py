"""Whatever venues say: no price that is none leaves the room, and a lone liar moves nothing."""

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Quote, Unknown
from keeper.feeds.composite import Composite, Offer, Params, compose
from keeper.feeds.heard import Heard, VenueQuote
from keeper.feeds.venues import VENUES
from keeper.units import BPS, WAD

NOW_MS = 1_700_000_000_900
NOW_S = NOW_MS // 1000
FEED = "ETH/USD"

near = st.integers(95 * WAD, 105 * WAD)
wild = st.integers(-WAD, 10**30)
ages = st.integers(-5_000, 70_000)
rates = st.one_of(
    st.none(),
    st.builds(Quote, st.just("USDT/USD"), st.integers(1, 2 * WAD), st.just(NOW_S), st.integers(0, 100)),
    st.just(Unknown("USDT/USD", "nobody says")),
)
params = st.builds(
    Params,
    min_venues=st.integers(1, 4),
    outlier_bps=st.integers(1, 500),
    max_dispersion_bps=st.integers(0, 500),
)


@st.composite
def any_offers(draw: st.DrawFn) -> list[Offer]:
    """Venues that say anything: fresh and stale, close and far, crossed, wide, silent."""
    found = []
    for index in range(draw(st.integers(0, 7))):
        price = draw(near | wild)
        spread = draw(st.sampled_from([0, 0, 1, 10**16, -1, -WAD]) | st.integers(-WAD, 5 * WAD))
        at_ms = NOW_MS - draw(st.sampled_from([0, 0, 100]) | ages)
        quote = VenueQuote(price, price + spread, at_ms, draw(st.sampled_from([0, 0, 30]) | ages))
        stands_ms = draw(st.sampled_from([0, NOW_MS]))
        said: VenueQuote | str = quote if draw(st.integers(0, 3)) else "silent"
        found.append(Offer(f"v{index}", said, stands_ms, draw(rates)))
    return found


def believable(offer: Offer, bounds: Params) -> bool:
    """Say it again, in other words: is this quote positive, whole, fresh and known in dollars?"""
    if isinstance(offer.quote, str) or isinstance(offer.rate, Unknown):
        return False
    quote = offer.quote
    age_ms = NOW_MS - (max(quote.heard_ms, offer.stands_ms) - quote.lag_ms)
    return (
        0 < quote.bid_wad <= quote.ask_wad
        and -bounds.max_future_ms <= age_ms <= bounds.max_age_ms
        and NOW_MS - quote.heard_ms <= bounds.max_standing_ms
    )


def mid(offer: Offer) -> int:
    assert isinstance(offer.quote, VenueQuote)
    middle = (offer.quote.bid_wad + offer.quote.ask_wad) // 2
    return middle if not isinstance(offer.rate, Quote) else middle * offer.rate.price_wad // WAD


@given(any_offers(), params)
def test_nothing_leaves_the_room_that_is_not_believable(offers: list[Offer], bounds: Params) -> None:
    composite = compose(FEED, offers, NOW_MS, bounds)
    by_name = {offer.venue: offer for offer in offers}
    if isinstance(composite.quote, Unknown):
        assert composite.used == ()
        assert all(f"{venue}: {why}" in composite.quote.why for venue, why in composite.dropped.items())
        return
    quote, used = composite.quote, [by_name[name] for name in composite.used]
    assert type(quote.price_wad) is int
    assert quote.price_wad > 0
    assert len(used) >= bounds.min_venues
    assert all(believable(offer, bounds) for offer in used)
    assert min(map(mid, used)) <= quote.price_wad <= max(map(mid, used))
    assert quote.observed_at_s <= NOW_MS // 1000
    assert 0 <= quote.dispersion_bps <= bounds.max_dispersion_bps
    off = max(abs(mid(offer) - quote.price_wad) for offer in used)
    assert quote.confidence_bps * quote.price_wad >= off * BPS
    assert set(composite.used) | composite.dropped.keys() == by_name.keys()
    assert not set(composite.used) & composite.dropped.keys()


@given(any_offers(), params, st.randoms(use_true_random=False))
def test_the_order_of_venues_changes_nothing(offers: list[Offer], bounds: Params, random: Random) -> None:
    def said(composite: Composite) -> object:
        known = composite.quote if isinstance(composite.quote, Quote) else None
        return known, set(composite.used), composite.dropped

    shuffled = list(offers)
    random.shuffle(shuffled)
    assert said(compose(FEED, shuffled, NOW_MS, bounds)) == said(compose(FEED, offers, NOW_MS, bounds))


def lone(name: str, price: int, half: int = 0) -> Offer:
    return Offer(name, VenueQuote(price - half, price + half, NOW_MS, 0))


@given(st.lists(near, min_size=2, max_size=6), wild, params, st.integers(0, WAD))
def test_one_liar_of_three_or_more_cannot_move_the_price_out_of_the_honest_range(
    honest: list[int], lie: int, bounds: Params, half: int
) -> None:
    offers = [lone(f"v{index}", price) for index, price in enumerate(honest)]
    composite = compose(FEED, [*offers, lone("liar", lie, half)], NOW_MS, bounds)
    if isinstance(composite.quote, Quote):
        assert min(honest) <= composite.quote.price_wad <= max(honest)


@given(st.lists(near, min_size=3, max_size=6), wild, wild, params)
def test_nor_can_two_of_five_or_more(honest: list[int], lie: int, other: int, bounds: Params) -> None:
    offers = [lone(f"v{index}", price) for index, price in enumerate(honest)]
    composite = compose(FEED, [*offers, lone("liar", lie), lone("other", other)], NOW_MS, bounds)
    if isinstance(composite.quote, Quote):
        assert min(honest) <= composite.quote.price_wad <= max(honest)


@given(st.lists(near, min_size=2, max_size=6), st.integers(1, 10_000), st.integers(0, 400))
def test_fewer_than_are_needed_are_no_price_and_all_dropped_are_named(
    prices: list[int], stale_ms: int, missing: int
) -> None:
    fresh = [lone(f"v{index}", price) for index, price in enumerate(prices)]
    stale = Offer("stale", VenueQuote(WAD, WAD, NOW_MS - 3_000 - stale_ms, 0))
    bounds = Params(min_venues=len(prices) + 1, max_dispersion_bps=10**6, outlier_bps=1 + missing)
    composite = compose(FEED, [*fresh, stale], NOW_MS, bounds)
    assert isinstance(composite.quote, Unknown)
    agree = len(fresh) + 1 - len(composite.dropped)
    assert composite.quote.why.startswith(f"{agree} of {len(fresh) + 1} venues agree")
    assert f"stale: {3_000 + stale_ms} ms old, bound 3000 ms" in composite.quote.why


# --- from the wire -------------------------------------------------------------------------------

TIMES = ["2023-11-14T22:13:20Z", "2099-01-01T00:00:00Z"]
WORDS = [*TIMES, "ETH/USD", "ticker", "update", "NaN", "-1", "0", "1e999", 3_000, 3_000.5, -1, 0, True, None]
KEYS = ["channel", "type", "data", "symbol", "bid", "ask", "timestamp", "error", "method", "x"]
soup = st.recursive(
    st.sampled_from(WORDS) | st.text(max_size=5) | st.floats(allow_nan=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)
tickers = st.fixed_dictionaries(
    {"symbol": st.just("ETH/USD"), "bid": soup, "ask": soup}, optional={"timestamp": soup}
).map(lambda ticker: {"channel": "ticker", "type": "update", "data": [ticker]})


@given(st.lists(soup | tickers, max_size=5), st.lists(st.text(max_size=20), max_size=2))
def test_whatever_comes_over_the_wire_what_leaves_is_believable_or_unknown(
    messages: list[object], texts: list[str]
) -> None:
    heard = Heard(VENUES["kraken"], ["ETH/USD"])
    heard.connected()
    for text in (*map(json.dumps, messages), *texts):
        heard.take(text, NOW_MS)
    offer = Offer("kraken", heard.quotes["ETH/USD"], heard.stands_ms)
    quote = compose(FEED, [offer], NOW_MS, Params(min_venues=1)).quote
    assert isinstance(quote, Unknown) or (
        0 < quote.price_wad < 10**38 and quote.observed_at_s <= NOW_MS // 1000
    )
