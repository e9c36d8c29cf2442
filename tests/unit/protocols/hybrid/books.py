"""A small market, and the accounts that the tests of the twin share."""

from dataclasses import replace

from keeper.domain import Account, ChainTime, FeedView, FlagState, Holding, Leg, OracleView, Phase
from keeper.protocols.hybrid.params import CollateralTerms, Deployment, Perp, Rules, SlopeParams
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

PERPS = {
    1: Perp(1, "BTC/USD", 5 * WAD // 100, 8 * WAD // 100),
    2: Perp(2, "ETH/USD", 4 * WAD // 100, 7 * WAD // 100),
    3: Perp(3, "SYN/USD", 8 * WAD // 100, 12 * WAD // 100),
}
COLLATERALS = {
    1: CollateralTerms(1, "0x" + "c1" * 20, "BTC/USD", 80 * WAD // 100, 75 * WAD // 100, 15 * WAD // 100),
    2: CollateralTerms(2, "0x" + "c2" * 20, "SYN/USD", 40 * WAD // 100, 30 * WAD // 100, 50 * WAD // 100),
}
PRICES: dict[FeedId, Wad] = {"BTC/USD": 200 * WAD, "ETH/USD": 1_500 * WAD, "SYN/USD": 7 * WAD}


def rules(slope: SlopeParams = SLOPE) -> Rules:
    return Rules(slope, PERPS, COLLATERALS)


def deployment(slope: SlopeParams = SLOPE) -> Deployment:
    names = ("vault", "fast_oracle", "router", "clearing", "liquidator", "reader", "quote")
    addresses = {name: f"0x{number:040x}" for number, name in enumerate(names, 0xD0)}
    return Deployment(chain_id=31337, fast_max_age_s=15, rules=rules(slope), **addresses)


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


def oracles(prices: dict[FeedId, Wad] | None = None) -> OracleView:
    return {feed: feed_view(feed, price) for feed, price in (prices or PRICES).items()}


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
