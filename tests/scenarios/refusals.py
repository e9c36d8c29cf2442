"""What may hold an act up, and how it comes to that: by rule, on both protocols or on one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias

from eth_abi.abi import encode

from keeper.abi import load
from keeper.confirm.policy import BALANCED, FAST, Policy
from keeper.desk.port import Judgement
from keeper.domain import FlagState, Holding, Leg, Log, Phase
from keeper.errors import ChainFault
from keeper.journal.guard import EACH, Limits
from keeper.lending.routes import Pool
from keeper.lending.words import Lender
from keeper.oracles.aggregator import Aggregator
from keeper.oracles.panel import Panel
from keeper.pipeline import UPGRADED
from keeper.plan.economics import Prudence
from keeper.plan.lending import ConvertParams, FlashParams
from keeper.plan.pace import Pace
from keeper.ports import Switch
from keeper.protocols.aave_v3.math import Rules
from keeper.protocols.compound_v2.math import Action
from keeper.protocols.hybrid.params import Listed
from keeper.risk.liquidity import Depth
from keeper.units import WAD
from tests.scenarios.chains import STRANGER, share_of
from tests.scenarios.pool_chains import AaveChain
from tests.scenarios.stage import AAVE, HYBRID, LONG, MORPHO, VENUS, Beat, Errs, Roads, Stage
from tests.unit.execute.distant import Distant
from tests.unit.pipeline.desk import FIRST, KEEPER, KEY
from tests.unit.pipeline.test_posting import Signed
from tests.unit.protocols.aave_v3 import pools
from tests.unit.protocols.hybrid.books import CALL, NOW_S, OPTIONS, PERPS, array, deployment
from tests.unit.protocols.morpho_blue import made

Set: TypeAlias = Callable[[Stage], None]
FALL = (Beat(), Beat(fast=0.95, chain=0.95, times=7))
DEEP = Depth(1_000.0, volume_day=1e12)


def both(share: float, times: int = 1) -> Beat:
    return Beat(fast=share, chain=share, times=times)


def limited(**limits: Any) -> Set:
    def bound(stage: Stage) -> None:
        stage.desk.limits = Limits(**limits)

    return bound


def planned(**params: Any) -> Set:
    """Plan by other parameters, whatever the protocol."""

    def change(stage: Stage) -> None:
        if stage.is_margin:
            stage.desk.plan = replace(stage.desk.plan, **params)
        else:
            stage.loans = replace(stage.loans, **params)

    return change


def prudent(**depth: Any) -> Set:
    """Know of a depth of the market: of what the account holds, or of the token that is seized."""

    def change(stage: Stage) -> None:
        known = {feed: replace(DEEP, **depth) for feed in (stage.feed_id, *stage.tokens)}
        planned(prudence=Prudence(depth=known))(stage)

    return change


def chained(**state: Any) -> Set:
    """Have the chain be otherwise."""

    def change(stage: Stage) -> None:
        for name, value in state.items():
            assert hasattr(stage.chain, name)
            setattr(stage.chain, name, copy(value))

    return change


def kept_by(**state: Any) -> Set:
    """Have the keeper's own account be otherwise."""

    def change(stage: Stage) -> None:
        stage.chain.put(replace(stage.chain.accounts[KEEPER], **state))

    return change


def holding(**state: Any) -> Set:
    """Have the account of HybridMargin at risk be otherwise at first."""

    def change(stage: Stage) -> None:
        stage.margin = replace(stage.margin, **state)

    return change


def owing(**state: Any) -> Set:
    """Have the loan at risk be otherwise at first."""

    def change(stage: Stage) -> None:
        stage.loan = replace(stage.loan, **state)

    return change


def together(*changes: Set) -> Set:
    def change(stage: Stage) -> None:
        for each in changes:
            each(stage)

    return change


def witnessed(share: float) -> Set:
    """Have an aggregator answer in every block with a share of the first price."""

    def change(stage: Stage) -> None:
        stage.desk.panel = Panel({stage.feed_id: (LINK,)})

        def answer() -> bytes:
            said = [7, share_of(stage.base_wad, share) // 10**10, 0, stage.chain.tip.timestamp_s, 7]
            newest = encode(["uint80", "int256", "uint256", "uint256", "uint80"], said)
            outputs = load("readers", "WitnessReader").functions["tried"].outputs
            return encode(outputs, [[newest, (8).to_bytes(32)]])

        stage.chain.witnessed = answer

    return change


def refused(stage: Stage) -> None:
    """Have the node take no transaction."""

    def on_send() -> None:
        raise ChainFault("insufficient funds for gas * price + value")

    stage.chain.on_send = on_send


def erring(errs: Errs) -> Set:
    """Have the desk go wrong."""

    def change(stage: Stage) -> None:
        stage.errs = errs

    return change


def unasked(found: Judgement[Any]) -> Judgement[Any]:
    """Forget the agreement on what takes something."""
    closes = isinstance(found.decision, tuple) and found.decision[0].act.closes
    return replace(found, agreed=None) if closes else found


def outlived(found: Judgement[Any]) -> Judgement[Any]:
    """Plan steps for a block that there is already."""
    if not isinstance(found.decision, tuple):
        return found
    valid_until = found.left.at.block - 1
    return replace(
        found, decision=tuple(replace(each, valid_until_block=valid_until) for each in found.decision)
    )


def unsigned(stage: Stage) -> None:
    """Have the signer elsewhere give no signature."""
    stage.desk.signer = signer = Distant(KEY)
    signer.silent_for = {0}


def halted(stage: Stage) -> None:
    """Have the operator halt the wallet while the signer has the first step before it."""
    stage.desk.signer = signer = Distant(KEY)
    signer.on_sign = lambda: stage.desk.journal.throw(Switch.HALT, "", on=True, who="a test", why="enough")


def shared(stage: Stage) -> None:
    """Have somebody else use the wallet's key in the fourth block, when the keeper has sent something."""
    stage.chain.receipts["0xforeign"] = {"blockNumber": hex(FIRST + 4), "blockHash": f"0xa{FIRST + 4}"}


def upgraded(stage: Stage) -> None:
    """Have a contract get other code in the third block."""
    upgrade = Log("0x" + "51" * 20, (UPGRADED.topic, bytes(32)), b"", FIRST + 2, f"0xa{FIRST + 2}", "0xup", 0)
    stage.chain.logs.append(upgrade)


def crossed(stage: Stage) -> None:
    """Long two feeds, of which one is lower at the fast price, and the other one at the slow."""
    stage.chain.slow["ETH/USD"] = 1_455 * WAD
    holding(cash_wad=5_000 * WAD, legs=(LONG, Leg(2, 20 * WAD, -30_000 * WAD)))(stage)


def borrowing(*pools: Pool) -> Set:
    """Close with what a pool of Uniswap lends, where tokens are sold over some pools."""

    def change(stage: Stage) -> None:
        planned(flash=FlashParams("0x" + "fa" * 20, Lender.UNISWAP_V3))(stage)
        stage.roads = Roads(pools)

    return change


def selling(stage: Stage) -> None:
    """Sell whatever was seized for what nobody has a price of."""
    planned(convert=ConvertParams("0x" + "fb" * 20, made.WBTC))(stage)
    stage.roads = Roads((POOL,))
    chained(second_price=0)(stage)


def signed(stage: Stage) -> None:
    """Have reporters say that an account is neither safe nor to be sliced, which is confirmed since long."""
    stage.reports = Signed({stage.feed_id: stage.base_wad * 974 // 1_000})
    flag = replace(ALARMED_AT, confirmed_at_s=NOW_S, last_poke_s=NOW_S - 60, fee_cap_wad=WAD // 50)
    holding(phase=Phase.CONFIRMED, flag=flag)(stage)


def moving(stage: Stage) -> None:
    """Let next to nothing of the feed, or of what is seized, be taken within a minute."""
    stage.desk.limits = Limits(depth_minute_wad=dict.fromkeys((stage.feed_id, *stage.tokens), 1))


def paused(stage: Stage) -> None:
    """Have the market paused since before the start."""
    stage.desk.journal.throw(Switch.PAUSE, stage.feed_id, on=True, who="a test", why="delisted")


def pooled(number: int, **terms: Any) -> Set:
    """Have a reserve of the pool be otherwise."""

    def change(stage: Stage) -> None:
        assert isinstance(stage.chain, AaveChain)
        stage.chain.pooled = {**stage.chain.pooled, number: replace(stage.chain.pooled[number], **terms)}

    return change


def blind(stage: Stage) -> None:
    """Have the account hang on a feed besides that nobody knows the name of; in the pool, for its debt."""
    if isinstance(stage.chain, AaveChain):
        chained(traced=(pools.WETH,))(stage)
        return
    chained(nameless=NAMELESS)(stage)
    paths = stage.listing.paths
    path = replace(paths[made.ORACLE], quote=(*paths[made.ORACLE].quote, NAMELESS))
    stage.listing = replace(stage.listing, paths={**paths, made.ORACLE: path})


def at_a_loss(base_fee_wei: int, solvency_day_wad: int = 0) -> Set:
    """Keep accounts solvent at any cost of gas, of which the guard allows so much."""

    def change(stage: Stage) -> None:
        stage.chain.base_fee_wei = base_fee_wei
        stage.desk.limits = Limits(spend_day_wei=10**30, solvency_day_wad=solvency_day_wad)
        planned(prudence=Prudence(solvency_day_wad=10**9 * WAD))(stage)

    return change


ON_BOTH: dict[str, tuple[Set, Sequence[Beat]]] = {
    "limit.halted": (limited(halted=True), FALL),
    "limit.paused": (paused, FALL),
    "limit.account": (limited(accounts_allow=frozenset({STRANGER})), FALL),
    "limit.market": (limited(markets_deny=frozenset({"BTC/USD", "ETH/USD"})), FALL),
    "limit.breaker": (limited(breakers={"jump": 0.05}), FALL),
    "limit.max_fee": (limited(max_fee_wei=1), FALL),
    "limit.wallet_floor": (limited(floor_wei=10**30), FALL),
    "limit.spend_hour": (limited(spend_hour_wei=1), FALL),
    "limit.spend_day": (limited(spend_day_wei=1), FALL),
    "limit.notional_block": (limited(notional_block_wad=1), FALL),
    "limit.notional_hour": (limited(notional_hour_wad=1), FALL),
    "limit.market_day": (limited(market_day_wad={EACH: 1}), FALL),
    "limit.inventory": (limited(inventory_wad={EACH: 1}), FALL),
    "limit.loss_hour": (limited(loss_hour_wad=0), FALL),
    "limit.loss_day": (limited(loss_day_wad=0), FALL),
    "limit.depth_minute": (moving, FALL),
    "limit.agreement": (erring(unasked), FALL),
    "limit.validity": (erring(outlived), FALL),
    "limit.in_flight": (limited(in_flight=0), FALL),
    "wallet.foreign": (shared, (Beat(), both(0.95, 4), both(0.85, 4))),
    "send.unsigned": (unsigned, FALL),
    "send.halted": (halted, FALL),
    "send.validity": (unsigned, (Beat(), both(0.95, 2), Beat(missed=30, restart=True), Beat(times=2))),
    "limit.attempts_hour": (limited(attempts_hour=1), (*FALL, both(0.9, 4))),
    "limit.solvency_day": (at_a_loss(4 * 10**11), (Beat(), both(0.84, 7))),
    "fees.unknown": (chained(base_fee_wei=None, fails=["eth_gasPrice"] * 8), FALL),
    "fees.cap": (at_a_loss(10**12), (Beat(), both(0.84, 7))),
    "size.depth": (prudent(most_bps=1e-9), FALL),
    "size.inventory": (prudent(inventory_wad=1), FALL),
    "size.pace": (planned(prudence=Prudence(pace=Pace(share_wad=WAD // 2))), FALL),
    "simulation.unknown": (chained(fails=["simulate"] * 8), FALL),
    "simulation.reverted": (chained(reverts={"flag": b"", "liquidate": b""}), FALL),
    "send.refused": (refused, FALL),
    "code.changed": (upgraded, FALL),
    "confirm.witnesses": (witnessed(1.0), FALL),
    "book.halted": (
        chained(),
        (Beat(), Beat(fast=0.95, chain=0.95, lagging=1.0), Beat(lagging=1.0, times=6)),
    ),
}
DEAR = planned(min_profit_wad=10**9 * WAD)
ALARMED_AT = FlagState(
    flagger=STRANGER, bond_wad=50 * WAD, flagged_at_s=NOW_S, flagged_block=FIRST, last_poke_s=NOW_S
)
"""By somebody else."""
ALARMED = holding(phase=Phase.FLAGGED, flag=ALARMED_AT)
OPTIONAL = together(
    chained(deployment=deployment(markets={**PERPS, **OPTIONS}), arrays={CALL: array(10 * WAD, age_s=1_000)}),
    holding(legs=(LONG, Leg(CALL, WAD, 0))),
)
"""With an option of which long nobody has said what it is worth."""
OTHERS = {market: Listed(market, "ETH/USD") for market in range(2, 10)}
MANY_LEGS = together(
    chained(deployment=deployment(markets={1: PERPS[1], **OTHERS})),
    kept_by(legs=tuple(Leg(market, WAD, -1_500 * WAD) for market in OTHERS)),
)
"""As many as an account can have, none of them of the market in question."""
POOL = Pool("0x" + "90" * 20, made.WETH, made.USDC, 500)
NAMELESS = "0x" + "fc" * 20
LINK = Aggregator("link", "0x" + "fe" * 20, 3_600, WAD // 200)

ON_ONE: dict[tuple[str, str], tuple[Policy, Set, Sequence[Beat]]] = {
    ("alarm.unprofitable", HYBRID): (BALANCED, DEAR, FALL),
    ("alarm.no_credit", HYBRID): (BALANCED, chained(credit=bytes(32)), FALL),
    ("bucket.empty", HYBRID): (BALANCED, chained(bucket_cap_wad=1), FALL),
    ("taker.not_healthy", HYBRID): (BALANCED, kept_by(phase=Phase.FLAGGED), FALL),
    ("taker.no_margin", HYBRID): (BALANCED, kept_by(cash_wad=WAD), FALL),
    ("alarm.cool_off", HYBRID): (BALANCED, holding(last_risk_s=NOW_S + 40), FALL),
    ("breaker.level", HYBRID): (BALANCED, chained(breaker_level=2), FALL),
    ("array.silent", HYBRID): (BALANCED, OPTIONAL, FALL),
    ("confirm.fast_evidence", HYBRID): (BALANCED, chained(min_delay_s=24, fast_age_s=3), FALL),
    ("confirm.no_breach_at_fast", HYBRID): (
        BALANCED,
        chained(),
        (Beat(), both(0.966, 2), Beat(fast=0.975, times=2)),
    ),
    ("confirm.no_breach_at_slow", HYBRID): (
        BALANCED,
        chained(),
        (Beat(), Beat(fast=0.96), Beat(chain=0.98, times=2)),
    ),
    ("confirm.no_breach_at_execution", HYBRID): (
        BALANCED,
        crossed,
        (Beat(), Beat(fast=0.85, chain=0.95, times=3)),
    ),
    ("slope.no_breach_at_fast", HYBRID): (BALANCED, chained(), (Beat(), both(0.95, 4), both(0.97, 2))),
    ("slope.no_breach_at_slow", HYBRID): (
        BALANCED,
        chained(),
        (Beat(), both(0.95, 4), Beat(fast=0.9, times=2)),
    ),
    ("slope.no_breach_at_execution", HYBRID): (
        BALANCED,
        crossed,
        (Beat(), Beat(fast=0.85, chain=0.92, times=3), Beat(chain=0.945, times=2)),
    ),
    ("slope.price_worse_than_fast", HYBRID): (
        BALANCED,
        chained(),
        (Beat(), both(0.95, 3), Beat(fast=0.85, times=2)),
    ),
    ("slope.unprofitable", HYBRID): (BALANCED, together(DEAR, ALARMED), FALL),
    ("purchase.unprofitable", HYBRID): (
        BALANCED,
        together(DEAR, holding(cash_wad=-WAD, legs=(), holdings=(Holding(1, WAD),), debt_since_s=NOW_S)),
        FALL,
    ),
    ("purchase.nothing_to_sell", HYBRID): (
        BALANCED,
        together(planned(upkeep=False), holding(cash_wad=-WAD, legs=(), debt_since_s=NOW_S)),
        FALL,
    ),
    ("size.margin", HYBRID): (BALANCED, kept_by(cash_wad=200 * WAD), FALL),
    ("reports.otherwise", HYBRID): (BALANCED, signed, (both(0.96, 3),)),
    ("taker.no_cash", HYBRID): (
        BALANCED,
        together(
            kept_by(cash_wad=0),
            holding(cash_wad=-1_000 * WAD, holdings=(Holding(1, 24 * WAD),)),
        ),
        FALL,
    ),
    ("taker.too_many_legs", HYBRID): (BALANCED, MANY_LEGS, FALL),
    ("size.harm", MORPHO): (BALANCED, chained(held=10**8), (Beat(), both(0.85, 3))),
    ("route.none", MORPHO): (BALANCED, borrowing(), FALL),
    ("route.no_lender", MORPHO): (BALANCED, borrowing(POOL), FALL),
    ("morpho.refuses", MORPHO): (
        BALANCED,
        together(chained(pre_share_bps=8_000), owing(authorised=(1,))),
        (both(1.05, 4),),
    ),
    ("value.unknown", MORPHO): (BALANCED, selling, FALL),
    ("close.unprofitable", MORPHO): (BALANCED, DEAR, FALL),
    ("means.no_tokens", MORPHO): (BALANCED, chained(held=0), FALL),
    ("oracle.divergent", MORPHO): (BALANCED, chained(), (Beat(), Beat(fast=0.6, times=2))),
    ("pool.inactive", AAVE): (BALANCED, pooled(pools.USDC, is_active=False), FALL),
    ("pool.paused", AAVE): (BALANCED, pooled(pools.WETH, is_paused=True), FALL),
    ("pool.sentinel", AAVE): (BALANCED, chained(allows=False), FALL),
    ("pool.grace", AAVE): (BALANCED, pooled(pools.USDC, grace_until_s=NOW_S + 60), FALL),
    ("pool.not_collateral", AAVE): (
        BALANCED,
        together(chained(rules=Rules.V3_0), pooled(pools.WETH, threshold_bps=0)),
        FALL,
    ),
    ("pool.illiquid", AAVE): (BALANCED, pooled(pools.WETH, liquid=0), FALL),
    ("venus.refuses", VENUS): (BALANCED, chained(paused=frozenset({Action.LIQUIDATE})), FALL),
    ("confirm.unsupported", AAVE): (BALANCED, blind, FALL),
    ("confirm.unsupported", MORPHO): (BALANCED, blind, FALL),
    ("confirm.min_delay", MORPHO): (replace(FAST, min_delay_s=24), chained(), FALL),
    ("size.rest", MORPHO): (BALANCED, chained(), (Beat(), both(0.96), Beat(), both(0.909, 2))),
}
