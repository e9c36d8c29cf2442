"""The composite price: tables of what venues say, and what comes of it."""

import pytest

from keeper.domain import Quote, Unknown
from keeper.errors import ConfigError
from keeper.feeds.composite import Offer, Params, compose
from keeper.feeds.heard import VenueQuote
from keeper.feeds.live import LiveComposite, Source
from keeper.units import WAD

NOW_MS = 1_700_000_000_900
NOW_S = NOW_MS // 1000
FEED = "ETH/USD"
NAMES = "abcdefgh"


def quoted(bid: float, ask: float | None = None, *, age_ms: int = 0, lag_ms: int = 0) -> VenueQuote:
    bid_wad, ask_wad = (round(price * 10**6) * 10**12 for price in (bid, bid if ask is None else ask))
    return VenueQuote(bid_wad, ask_wad, NOW_MS - age_ms, lag_ms)


def offers(*quotes: VenueQuote | str) -> list[Offer]:
    return [Offer(name, quote) for name, quote in zip(NAMES, quotes, strict=False)]


@pytest.mark.parametrize(
    ("prices", "price", "used", "dispersion_bps"),
    [
        ((100.0, 100.2), 100.1, "ab", 20),
        ((100.0, 100.2, 100.1), 100.1, "acb", 20),
        ((100.0, 100.0, 100.0), 100.0, "abc", 0),
        ((100.0, 100.2, 100.4, 100.3), 100.25, "abdc", 40),
        # One liar of three, however far off, and two of five on the same side.
        ((100.0, 100.2, 200.0), 100.2, "ab", 20),
        ((100.0, 100.2, 0.001), 100.0, "ab", 20),
        ((100.0, 100.1, 100.2, 50.0, 51.0), 100.0, "abc", 20),
        # To the bound, and beyond it.
        ((100.0, 101.0, 101.2), 101.0, "abc", 119),
        ((100.0, 101.1, 101.2), 101.1, "bc", 10),
    ],
)
def test_the_median_of_those_that_agree_is_the_price(
    prices: tuple[float, ...], price: float, used: str, dispersion_bps: int
) -> None:
    composite = compose(FEED, offers(*map(quoted, prices)), NOW_MS, Params())
    assert isinstance(composite.quote, Quote)
    assert composite.quote.price_wad == round(price * 10**6) * 10**12
    assert composite.used == tuple(used)
    assert composite.quote.dispersion_bps == dispersion_bps
    assert composite.dropped.keys() == set(NAMES[: len(prices)]) - set(used)


@pytest.mark.parametrize(
    ("quotes", "why"),
    [
        ((), "0 of 0 venues agree, 2 needed"),
        ((quoted(100),), "1 of 1 venues agree, 2 needed"),
        (("not connected yet", quoted(100)), "1 of 2 venues agree, 2 needed; a: not connected yet"),
        (
            (quoted(100), quoted(103)),
            "0 of 2 venues agree, 2 needed; a: 148 bps off the median, bound 100 bps; b: 148 bps off",
        ),
        # Two against two: no side is chosen.
        ((quoted(100), quoted(100), quoted(110), quoted(110)), "0 of 4 venues agree"),
        ((quoted(100), quoted(110), quoted(120), quoted(130)), "0 of 4 venues agree"),
        ((quoted(100), quoted(110), quoted(120)), "1 of 3 venues agree"),
        ((quoted(100), quoted(100.9), quoted(101.8)), "the venues are 179 bps apart, bound 150 bps"),
        ((quoted(100), quoted(100, age_ms=3_001)), "b: 3001 ms old, bound 3000 ms"),
        ((quoted(100), quoted(100, lag_ms=3_001)), "b: 3001 ms old, bound 3000 ms"),
        ((quoted(100), quoted(100, lag_ms=-501)), "b: 501 ms in the future, bound 500 ms"),
        ((quoted(100), quoted(100, age_ms=-501)), "b: 501 ms in the future, bound 500 ms"),
        ((quoted(100), quoted(100.1, 100)), "b: crossed: bid 100100000000000000000, ask 1000000000000000"),
        ((quoted(100), quoted(0, 100)), "b: crossed: bid 0, ask 100"),
        ((quoted(100), quoted(-1, 100)), "b: crossed: bid -1"),
        ((quoted(100), quoted(98.9, 101.1)), "b: half spread above 100 bps"),
    ],
)
def test_where_too_few_agree_there_is_no_price_and_each_is_named(
    quotes: tuple[VenueQuote | str, ...], why: str
) -> None:
    composite = compose(FEED, offers(*quotes), NOW_MS, Params())
    assert isinstance(composite.quote, Unknown)
    assert composite.quote.what == FEED
    assert why in composite.quote.why
    assert composite.used == ()


def test_to_the_bound_a_quote_is_fresh() -> None:
    at_bounds = offers(quoted(100, age_ms=3_000), quoted(100, lag_ms=-500), quoted(99, 101))
    assert compose(FEED, at_bounds, NOW_MS, Params()).used == ("a", "b", "c")


def test_a_price_is_as_old_as_its_oldest_quote_and_never_from_the_future() -> None:
    old = compose(FEED, offers(quoted(100), quoted(100, age_ms=2_500)), NOW_MS, Params()).quote
    assert isinstance(old, Quote)
    assert old.observed_at_s == (NOW_MS - 2_500) // 1000
    ahead = compose(FEED, offers(quoted(100, lag_ms=-400), quoted(100, lag_ms=-400)), NOW_MS, Params()).quote
    assert isinstance(ahead, Quote)
    assert ahead.observed_at_s == NOW_S


@pytest.mark.parametrize(
    ("quotes", "confidence_bps"),
    [
        ((quoted(100), quoted(100)), 0),
        # The spread of the middle ones, where it is wider than the quotes are apart.
        ((quoted(99.5, 100.5), quoted(100)), 50),
        ((quoted(99.9), quoted(99.7, 100.3), quoted(100.1)), 30),
        # And how far apart they are, where that is wider.
        ((quoted(99.5), quoted(99.9, 100.1), quoted(100.2)), 50),
        # The spread of those that are not in the middle is not the price's.
        ((quoted(99.0, 100.8), quoted(100), quoted(100.1)), 10),
    ],
)
def test_the_confidence_covers_the_quotes_used_and_the_middle_spread(
    quotes: tuple[VenueQuote, ...], confidence_bps: int
) -> None:
    quote = compose(FEED, offers(*quotes), NOW_MS, Params()).quote
    assert isinstance(quote, Quote)
    assert quote.confidence_bps == confidence_bps


STANDING = [(0, 0, False), (NOW_MS, 0, True), (NOW_MS, 3_000, True), (NOW_MS, 3_001, False)]


def test_a_quote_stands_while_its_venue_is_heard_and_keeps_its_lag() -> None:
    params = Params(min_venues=1)
    for stands_ms, lag_ms, fresh in STANDING:
        offer = Offer("a", quoted(100, age_ms=20_000, lag_ms=lag_ms), stands_ms)
        assert (compose(FEED, [offer], NOW_MS, params).used == ("a",)) is fresh
    stood = compose(FEED, [Offer("a", quoted(100, age_ms=60_001), NOW_MS)], NOW_MS, params).quote
    assert isinstance(stood, Unknown)
    assert "unchanged for 60001 ms, bound 60000 ms" in stood.why


def test_what_is_quoted_in_a_stablecoin_is_converted_by_its_price_and_as_sure_and_as_old_as_it() -> None:
    rate = Quote("USDT/USD", WAD * 9 // 10, NOW_S - 2, confidence_bps=20)
    quote = compose(FEED, [Offer("a", quoted(100), 0, rate)], NOW_MS, Params(min_venues=1)).quote
    assert quote == Quote(FEED, 90 * WAD, NOW_S - 2, confidence_bps=20)


def test_what_is_quoted_in_a_stablecoin_without_a_price_is_dropped() -> None:
    rate = Unknown("USDT/USD", "nobody says")
    quote = compose(FEED, [Offer("a", quoted(100), 0, rate), Offer("b", quoted(100))], NOW_MS, Params()).quote
    assert quote == Unknown(FEED, "1 of 2 venues agree, 2 needed; a: USDT/USD is unknown")


def test_a_price_too_small_to_convert_is_dropped() -> None:
    offer = Offer("a", VenueQuote(1, 1, NOW_MS, 0), 0, Quote("X/USD", WAD // 10, NOW_S))
    quote = compose(FEED, [offer], NOW_MS, Params(min_venues=1)).quote
    assert quote == Unknown(FEED, "0 of 1 venues agree, 1 needed; a: nothing when converted by X/USD")


# --- which sources make sense --------------------------------------------------------------------

TETHER = {"USDT/USD": [Source("kraken", "USDT/USD"), Source("coinbase", "USDT-USD")]}
PYTH_ID = "0x" + "Ab" * 32


def test_sources_are_read_as_the_venues_write_them() -> None:
    named = {
        FEED: [Source("binance", "ethusdt", "USDT/USD"), Source("kraken", "eth/usd"), Source("pyth", PYTH_ID)]
    }
    feed = LiveComposite(named | TETHER, Params())
    assert [source.symbol for source in feed._sources[FEED]] == ["ETHUSDT", "ETH/USD", "ab" * 32]
    assert list(feed.latest(0)) == [FEED, "USDT/USD"]


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        ({FEED: [Source("kraken", "ETH/USD")]}, "ETH/USD: fewer venues than min_venues, 2"),
        ({FEED: [Source("kraken", "ETHUSD")]}, "ETH/USD at kraken: 'ETHUSD' is no symbol of this venue"),
        ({"ETH": [Source("kraken", "ETH/USD")]}, "'ETH' is no feed: expected what is priced and in what"),
        ({"A\n/B": [Source("kraken", "A/B")]}, "is no feed: "),
        ({FEED: [Source("pyth", "0x12")]}, "ETH/USD at pyth: '0x12' is no symbol of this venue"),
        ({FEED: [Source("kraken", "ETH/USDT")]}, "ETH/USDT is quoted in USDT, expected USD; say so by `in`"),
        ({FEED: [Source("coinbase", "ETH-USDC")]}, "ETH-USDC is quoted in USDC, expected USD"),
        ({FEED: [Source("okx", "ETH-USDC", "USDT/USD")]}, "ETH-USDC is quoted in USDC, expected USDT"),
        ({FEED: [Source("okx", "ETH-BTC", "BTC/EUR")]}, "BTC/EUR is not a price in the quote of ETH/USD"),
        ({FEED: [Source("binance", "ETHUSDT")]}, "say by `in` what ETHUSDT is quoted in"),
        ({FEED: [Source("binance", "ETHBUSD")]}, "say by `in` what ETHBUSD is quoted in"),
        ({FEED: [Source("binance", "ETHUSDC", "USDT/USD")]}, "say by `in` what ETHUSDC is quoted in"),
        (
            {FEED: [Source("okx", "ETH-USDT", "USDT/USD"), Source("kraken", "ETH/USD")]},
            "something is quoted in USDT/USD, which has no sources",
        ),
        (
            {
                "USDT/USD": [Source("okx", "USDT-USDC", "USDC/USD"), Source("kraken", "USDT/USD")],
                "USDC/USD": [Source("okx", "USDC-USDT", "USDT/USD"), Source("kraken", "USDC/USD")],
            },
            "feeds are quoted in each other, in a circle: ",
        ),
    ],
)
def test_sources_that_make_no_sense_are_refused_at_the_start(
    sources: dict[str, list[Source]], why: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        LiveComposite(sources, Params())
    assert why in str(refused.value)
