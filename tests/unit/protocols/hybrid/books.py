"""A small market, and the accounts that the tests of the twin share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keeper.domain import (
    Account,
    ArrayView,
    BucketView,
    ChainTime,
    FeedView,
    FlagState,
    Globals,
    Holding,
    Kind,
    Leg,
    OracleView,
    Phase,
)
from keeper.protocols.hybrid.params import (
    Collateral,
    Deployment,
    Listed,
    Ramp,
    Rules,
    SlopeParams,
    Underlying,
)
from keeper.protocols.hybrid.portfolio import Setting, setting_at
from keeper.units import WAD, FeedId, Wad

NOW_S = 1_700_000_000
AT = ChainTime(100, NOW_S)
OWNER = b"\x0a" * 20 + bytes(12)
TAKER = b"\x0b" * 20 + bytes(12)

SLOPE = SlopeParams(
    beta_wad=15 * WAD // 100,
    beta_cure_wad=10 * WAD // 100,
    beta_flag_wad=0,
    lambda_wad=116_468_285_312_632,
    q_min_wad=869_565_217_391_304_348,
    slope_s=1200,
    k0_wad=5 * WAD // 1000,
    k1_wad=3 * WAD // 100,
    fee_growth_s=300,
    theta_wad=WAD // 2,
    band_base_wad=WAD // 100,
    band_rate_wad=WAD // 100,
    band_max_wad=15 * WAD // 100,
    step_cap_wad=20 * WAD // 100,
    step_window_s=30,
    min_slice_wad=500 * WAD,
    dust_wad=1000 * WAD,
)
BARE = replace(SLOPE, step_cap_wad=WAD, min_slice_wad=0, dust_wad=0)
"""The slope alone: no window and no dust."""
FLAT = replace(SLOPE, k0_wad=WAD // 100, k1_wad=WAD // 100)
"""A fee of one per cent from the first second."""


def still(value_wad: Wad) -> Ramp:
    """A term that does not move."""
    return Ramp(value_wad, value_wad, NOW_S - 86_400, NOW_S - 86_400)


def underlying(feed: FeedId, mmr_percent: int, imr_percent: int) -> Underlying:
    """Terms at rest, with a least requirement of 1% for short options."""
    return Underlying(
        feed, still(mmr_percent * WAD // 100), still(imr_percent * WAD // 100), still(WAD // 100)
    )


UNDERLYINGS = {
    "BTC/USD": underlying("BTC/USD", 5, 8),
    "ETH/USD": underlying("ETH/USD", 4, 7),
    "SYN/USD": underlying("SYN/USD", 8, 12),
}
PERPS = {1: Listed(1, "BTC/USD"), 2: Listed(2, "ETH/USD"), 3: Listed(3, "SYN/USD")}
EXPIRY_S = NOW_S + 30 * 86_400
CALL, PUT, LATER = 4, 5, 6
OPTIONS = {
    CALL: Listed(CALL, "BTC/USD", Kind.CALL, 210 * WAD, EXPIRY_S),
    PUT: Listed(PUT, "BTC/USD", Kind.PUT, 190 * WAD, EXPIRY_S),
    LATER: Listed(LATER, "BTC/USD", Kind.CALL, 220 * WAD, EXPIRY_S + 86_400),
}
COLLATERALS = {
    1: Collateral(
        1, "0x" + "c1" * 20, "BTC/USD", still(80 * WAD // 100), still(75 * WAD // 100), 15 * WAD // 100
    ),
    2: Collateral(
        2, "0x" + "c2" * 20, "SYN/USD", still(40 * WAD // 100), still(30 * WAD // 100), 50 * WAD // 100
    ),
}
PRICES: dict[FeedId, Wad] = {"BTC/USD": 200 * WAD, "ETH/USD": 1_500 * WAD, "SYN/USD": 7 * WAD}
CAP = 10**15 * WAD
"""Of every bucket: more than any slice."""


def rules(slope: SlopeParams = SLOPE, *more: SlopeParams, markets: Mapping[int, Listed] = PERPS) -> Rules:
    return Rules((slope, *more), 0, UNDERLYINGS, markets, COLLATERALS)


def deployment(slope: SlopeParams = SLOPE, *, markets: Mapping[int, Listed] = PERPS) -> Deployment:
    names = (
        *("vault", "fast_oracle", "router", "instruments", "risk_arrays", "engine", "clearing"),
        *("backstop", "breaker", "liquidator", "slopes", "reader", "quote"),
    )
    addresses = {name: f"0x{number:040x}" for number, name in enumerate(names, 0xD0)}
    return Deployment(
        chain_id=31337,
        fast_max_age_s=15,
        fast_silent_after_s=600,
        version=3,
        rules=rules(slope, markets=markets),
        **addresses,
    )


def feed_view(feed: FeedId, fast_wad: Wad, slow_wad: Wad | None = None) -> FeedView:
    return FeedView(
        feed=feed,
        fast_wad=fast_wad,
        fast_observed_at_s=NOW_S - 3,
        fast_max_age_s=15,
        slow_wad=fast_wad if slow_wad is None else slow_wad,
        slow_updated_at_s=NOW_S - 60,
        slow_ok=True,
        slow_deviation_wad=WAD // 100,
        slow_heartbeat_s=3600,
        min_delay_s=12,
    )


def seen(feeds: Mapping[FeedId, FeedView], **more: Any) -> OracleView:
    """The chain's view of some feeds, with room in every bucket and 10^6 of insurance; ``more`` replaces."""
    view = OracleView(
        feeds=feeds,
        buckets={feed: BucketView(0, 0, CAP) for feed in feeds},
        world=Globals(version=3, insurance_wad=10**6 * WAD, drawable_wad=10**6 * WAD),
    )
    return replace(view, **more)


def oracles(prices: Mapping[FeedId, Wad] | None = None, **more: Any) -> OracleView:
    return seen({feed: feed_view(feed, price) for feed, price in (prices or PRICES).items()}, **more)


def changed(view: OracleView, feed: FeedId, **changes: Any) -> OracleView:
    """The same view, but for one feed."""
    return replace(view, feeds={**view.feeds, feed: replace(view[feed], **changes)})


def array(mark: Wad, *pnl: Wad, ref: Wad = 200 * WAD, delta: Wad = WAD // 2, age_s: int = 60) -> ArrayView:
    """A risk array of an option on BTC/USD; what ``pnl`` does not say is 0."""
    return ArrayView(ref, mark, delta, NOW_S - age_s, (*pnl, *[0] * (16 - len(pnl))))


def setting(view: OracleView | None = None, now_s: int = NOW_S, **listed: Any) -> Setting:
    """What margin depends on beside the account and the prices."""
    return setting_at(rules(**listed), view or oracles(), now_s)


def confirmed(
    *,
    cash_wad: Wad,
    legs: tuple[Leg, ...],
    holdings: tuple[Holding, ...] = (),
    tau_s: int = 0,
    since_confirmation_s: int = 0,
) -> Account:
    """Return an account confirmed some active seconds ago, its clock poked at ``NOW_S``."""
    flag = FlagState(
        flagger="0x" + "fa" * 20,
        flagged_at_s=NOW_S - 100,
        flagged_block=90,
        tau_s=tau_s,
        last_poke_s=NOW_S,
        tau_at_confirm_s=tau_s - since_confirmation_s,
        confirmed_at_s=NOW_S - 50,
        fee_cap_wad=2**64 - 1,
        tranche_nonce=3,
    )
    return Account(OWNER, Phase.CONFIRMED, cash_wad, legs, holdings, flag=flag)


def taker(cash_wad: Wad = 10**9 * WAD, legs: tuple[Leg, ...] = ()) -> Account:
    return Account(TAKER, Phase.HEALTHY, cash_wad, legs, ())


def worked_example() -> Account:
    """Long 100 at 210, cash 300, and 10 units of collateral at 200: E = 900, M = 1000, N = 20000."""
    return confirmed(
        cash_wad=300 * WAD, legs=(Leg(1, 100 * WAD, -21_000 * WAD),), holdings=(Holding(1, 10 * WAD),)
    )
