"""What the Liquidator contract would do at one moment of chain time, to the wei.

Mirrors ``contracts/src/Liquidator.sol``: the view of an account at three price vectors, its clock, the sale
of collateral for debt, the fraction, and the whole of ``liquidate``. Every function takes instruments and
prices for granted: the caller has seen to it that none is lacking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain import (
    Account,
    BucketView,
    ChainTime,
    FlagState,
    Globals,
    Leg,
    OracleView,
    Phase,
    Reason,
    Refuse,
    Valuation,
)
from keeper.ports import Purchase
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.clearing import (
    MAX_LEGS,
    Move,
    pay,
    sell_first_holding,
    take_slice,
    worst_initial,
    write_off,
)
from keeper.protocols.hybrid.exp import exp_wad
from keeper.protocols.hybrid.math import Marks
from keeper.protocols.hybrid.params import CollateralTerms, Rules, SlopeParams, Terms
from keeper.protocols.hybrid.portfolio import Setting, is_current, setting_at, unit_value_wad
from keeper.units import WAD, FeedId, UnixS, Wad, mul_div_down, mul_div_trunc, mul_div_up

COOL_OFF_S: Final = 12
POKE_CAP_S: Final = 30
EXPIRY_ACTIVE_S: Final = 30 * 60
EXPIRY_WALL_S: Final = 6 * 3600
CARRY_SPAN_S: Final = 3600
CARRY_DECAY_WAD: Final = 192_540_883_488_873
BOND_MIN_WAD: Final = 50 * WAD
BOND_MAX_WAD: Final = 5_000 * WAD
BOND_RATE_WAD: Final = 2 * WAD // 10_000
REWARD_BASE_WAD: Final = 20 * WAD
REWARD_RATE_WAD: Final = WAD // 10_000
REWARD_EQUITY_SHARE_WAD: Final = WAD // 10
TAKER_SHARE_WAD: Final = 8 * WAD // 10
BUCKET_SPAN_S: Final = 60
INSOLVENCY_RAMP_S: Final = 600
BREAKER_PATIENCE_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Prices:
    """The three price vectors of an account's feeds."""

    fast: Marks
    slow: Marks
    execution: Marks


@dataclass(frozen=True, slots=True)
class Sight:
    """What an account may be judged by: which oracles of its feeds are fresh, and its risk arrays."""

    fast: bool
    slow: bool
    slow_only: bool
    """The slow oracle acts alone: fresh on every feed, and one fast price at least is silent."""
    arrays_silent: bool

    @property
    def fresh(self) -> bool:
        """Tell whether both oracles are fresh on every feed."""
        return self.fast and self.slow

    @property
    def priced(self) -> bool:
        """Tell whether both oracles say a price, or the slow one where it may act alone."""
        return self.fresh or self.slow_only

    @property
    def usable(self) -> bool:
        """Tell whether the account may be confirmed or sliced (Liquidator._requireUsable)."""
        return self.priced and not self.arrays_silent

    @property
    def running(self) -> bool:
        """Tell whether the clock runs, as far as the oracles are concerned."""
        return self.fresh and not self.arrays_silent


@dataclass(frozen=True, slots=True)
class Room:
    """What a book holds of one underlying, and what the feed's bucket allows of it (Liquidator.Room)."""

    feed: FeedId
    notional_wad: Wad
    """What there is to hedge: of an option that has a risk array, delta times the underlying's."""
    used_wad: Wad
    cap_wad: Wad

    @property
    def part_wad(self) -> Wad:
        """The largest part of the book that the bucket has room for; 0 where it is full."""
        if self.notional_wad == 0:
            return WAD
        return mul_div_down(max(0, self.cap_wad - self.used_wad), WAD, self.notional_wad)


@dataclass(frozen=True, slots=True)
class View:
    """An account at the three price vectors."""

    account: Account
    fast: Valuation
    slow: Valuation
    execution: Valuation


@dataclass(frozen=True, slots=True)
class Sale:
    """Collateral that the taker buys: ``amount`` units for ``paid`` quote."""

    feed: FeedId
    amount_wad: Wad
    paid_wad: Wad


@dataclass(frozen=True, slots=True)
class Outlook:
    """What ``liquidate`` finds, and what it decides before it moves the first leg.

    ``flag`` is poked, with the fee cap stored and the step window begun anew where it was over. ``found`` is
    the account as it is, ``sold`` the account after the ``sales``.
    """

    setting: Setting
    slope: SlopeParams
    flag: FlagState
    prices: Prices
    sight: Sight
    found: View
    sold: View
    sales: tuple[Sale, ...]
    since_confirmation_s: int
    q_wad: Wad
    kappa_wad: Wad
    insured: bool
    """Whether nothing is left that could bear a fee, so that the insurance pays the taker."""
    halted: bool
    """Whether the breaker holds back this account's slices."""
    closeable_wad: Wad
    capped: bool
    """Whether step window and buckets bound the slice: while E > M / 2."""
    step_room_wad: Wad
    """What the step window leaves, as a fraction of what is left of the book; 0 where its cap is reached."""
    rooms: tuple[Room, ...]

    @property
    def paid_wad(self) -> Wad:
        """What the taker pays for the collateral."""
        return sum(sale.paid_wad for sale in self.sales)

    @property
    def tightest(self) -> Room | None:
        """The bucket that allows the least; None where none bounds the slice."""
        return min(self.rooms, key=lambda room: room.part_wad) if self.capped and self.rooms else None


@dataclass(frozen=True, slots=True)
class Fee:
    """The fee on the notional moved: the taker's part rounded down, the rest to the insurance."""

    notional_wad: Wad
    whole_wad: Wad
    taker_wad: Wad
    from_insurance_wad: Wad
    """What the insurance adds to the taker's part where the account is insolvent."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice as the contract carries it out: what its Tranche event says, and both accounts after it."""

    q_wad: Wad
    kappa_wad: Wad
    fraction_wad: Wad
    notional_wad: Wad
    before: Valuation
    after: Valuation
    fee: Fee
    bad_debt_wad: Wad
    covered_wad: Wad
    """The part of the bad debt that the insurance pays."""
    sales: tuple[Sale, ...]
    moves: tuple[Move, ...]
    taker_mark_wad: Wad
    """What legs and collateral are worth at the fast price over what the taker pays for them."""
    account: Account
    taker: Account
    taker_margin: Valuation
    """The taker's initial margin afterwards, at the oracle that decides."""
    oracles: OracleView
    """What the next slice of the same block finds: buckets filled, insurance drawn."""
    takes: Mapping[FeedId, Wad]
    """What the taker then has more of each feed."""


def feeds_of(account: Account, terms: Terms | Rules) -> tuple[FeedId, ...]:
    """Return every feed that the account's margin needs, each once: legs first, then holdings."""
    legs = (terms.markets[leg.market].feed for leg in account.legs)
    holdings = (terms.collaterals[holding.collateral].feed for holding in account.holdings)
    return tuple(dict.fromkeys((*legs, *holdings)))


def sight_of(account: Account, oracles: OracleView, setting: Setting) -> Sight:
    """Tell what the account may be judged by (MarginEngine.look)."""
    now_s = setting.now_s
    views = [oracles[feed] for feed in feeds_of(account, setting.terms)]
    fast = all(view.fast_fresh(now_s) for view in views)
    slow = all(view.slow_ok for view in views)
    either = all(view.fast_fresh(now_s) or view.slow_alone(now_s) for view in views)
    return Sight(fast, slow, slow and either and not fast, setting.is_silent(account))


def prices_of(feeds: Iterable[FeedId], oracles: OracleView, band_wad: Wad, now_s: UnixS) -> Prices:
    """Collect the fast and slow prices and derive the execution prices (MarginEngine._price).

    Where the slow price acts alone it stands for the fast one as well.
    """
    views = [oracles[feed] for feed in feeds]
    fast = {view.feed: view.slow_wad if view.slow_alone(now_s) else view.fast_wad for view in views}
    slow = {view.feed: view.slow_wad for view in views}
    execution = {feed: math.execution_price(fast[feed], slow[feed], band_wad) for feed in fast}
    return Prices(fast, slow, execution)


def view_of(account: Account, prices: Prices, setting: Setting) -> View:
    """Value an account at the three price vectors."""
    fast, slow, execution = (
        math.maintenance(account, marks, setting) for marks in (prices.fast, prices.slow, prices.execution)
    )
    return View(account, fast, slow, execution)


def outlook(account: Account, oracles: OracleView, at: ChainTime, rules: Rules) -> Outlook:
    """Foresee what ``liquidate`` would find in block ``at`` (its first half, up to _fraction).

    An account that is not confirmed is judged as though it were confirmed in that block, and one that is not
    flagged as though both happened in it.
    """
    setting = setting_at(rules, oracles, at.timestamp_s)
    slope, world = setting.terms.slope_of(account), oracles.world
    sight = sight_of(account, oracles, setting)
    flag = _episode(account, setting.terms, at)
    if sight.running and world.breaker_level < 2:
        flag = poked(flag, at.timestamp_s)
    t_s = flag.tau_s - flag.tau_at_confirm_s if flag.confirmed_at_s else 0
    q_wad = math.decay(slope, flag.tau_s)
    feeds = feeds_of(account, setting.terms)
    prices = prices_of(feeds, oracles, math.band_wad(slope, t_s), at.timestamp_s)
    found = sold = view_of(account, prices, setting)
    sales: tuple[Sale, ...] = ()
    if sight.usable:
        flag = _watched(flag, found)
        sold, sales = _sell_for_debt(found, prices, setting, slope, q_wad=q_wad, t_s=t_s)
    flag, kappa_wad, insured = _terms(flag, found, sold, prices.execution, setting, slope, t_s=t_s)
    if at.timestamp_s >= flag.step_start_s + slope.step_window_s:
        flag = replace(flag, step_start_s=at.timestamp_s, step_used_wad=0)
    return Outlook(
        setting=setting,
        slope=slope,
        flag=flag,
        prices=prices,
        sight=sight,
        found=found,
        sold=sold,
        sales=sales,
        since_confirmation_s=t_s,
        q_wad=q_wad,
        kappa_wad=kappa_wad,
        insured=insured,
        halted=_is_halted(found, world, at.timestamp_s),
        closeable_wad=math.closeable(sold.execution, kappa_wad, q_wad),
        capped=sold.execution.equity_wad * 2 > sold.execution.requirement_wad,
        step_room_wad=_step_room(slope, flag, sold.execution),
        rooms=_rooms(sold.account, prices.execution, setting, oracles),
    )


def liquidate(
    account: Account,
    taker: Account,
    oracles: OracleView,
    at: ChainTime,
    rules: Rules,
    *,
    max_fraction_wad: Wad,
) -> Slice | Refuse:
    """Carry out ``liquidate`` in block ``at``; refuse where the contract reverts.

    Left to the caller: deadline, tranche number, the least fraction and fee, and whether ``taker_margin``
    suffices. The insurance pays up to ``oracles.world.drawable_wad``; who bears the rest is not foreseen.
    Property: cash and quote legs of both, the insurance and the bad debt add up as before.
    """
    refusal = _barred(account, taker)
    if refusal:
        return refusal
    look = outlook(account, oracles, at, rules)
    part = _part(look, taker, max_fraction_wad)
    if isinstance(part, Refuse):
        return part
    payer = replace(taker, cash_wad=taker.cash_wad - look.paid_wad)
    execution, setting = look.prices.execution, look.setting
    account, taker, moves = take_slice(
        look.sold.account, payer, part, execution=execution, setting=setting, block=at.block
    )
    refusal = _overburdened(taker, oracles, look)
    if refusal:
        return refusal
    fee = _fee(look, part, moves, oracles.world.drawable_wad)
    account = pay(replace(account, flag=_counted(look.flag, part)), -fee.whole_wad, at.timestamp_s)
    taker = pay(taker, fee.taker_wad + fee.from_insurance_wad, at.timestamp_s)
    after = view_of(account, look.prices, setting)
    ended, bad_debt_wad = _end(after, look.slope, at.timestamp_s)
    covered_wad = min(bad_debt_wad, oracles.world.drawable_wad - fee.from_insurance_wad)
    return Slice(
        q_wad=look.q_wad,
        kappa_wad=look.kappa_wad,
        fraction_wad=part,
        notional_wad=fee.notional_wad,
        before=look.found.execution,
        after=after.execution,
        fee=fee,
        bad_debt_wad=bad_debt_wad,
        covered_wad=covered_wad,
        sales=look.sales,
        moves=moves,
        taker_mark_wad=_mark(moves, look),
        account=ended,
        taker=taker,
        taker_margin=_taker_margin(taker, oracles, setting),
        oracles=_drawn(_filled(oracles, look, part), fee, covered_wad),
        takes=takes(look, moves),
    )


def purchase(
    account: Account, oracles: OracleView, at: ChainTime, rules: Rules, *, max_quote_wad: Wad
) -> Purchase | Refuse:
    """Foresee ``buyCollateral`` of the first holding in block ``at``, for at most ``max_quote_wad``."""
    setting = setting_at(rules, oracles, at.timestamp_s)
    if not account.debt_since_s or account.cash_wad >= 0 or not account.holdings:
        return refuse(
            "purchase.nothing_to_sell", f"cash {account.cash_wad / WAD:.6f}", "debt and collateral only"
        )
    elapsed_s, first = at.timestamp_s - account.debt_since_s, account.holdings[0]
    terms, slope = setting.terms.collaterals[first.collateral], setting.terms.slope_of(account)
    view = oracles[terms.feed]
    both_fresh = view.slow_ok and view.fast_fresh(at.timestamp_s)
    if not (both_fresh or view.slow_alone(at.timestamp_s)):
        return refuse(
            "oracle.stale", f"a price of {terms.feed} is stale", "both fresh, or the fast one silent"
        )
    prices = prices_of([terms.feed], oracles, math.band_wad(slope, elapsed_s), at.timestamp_s)
    price_wad = sale_price_wad(terms, prices.execution[terms.feed], slope, elapsed_s)
    owed_wad = min(-account.cash_wad, max_quote_wad)
    amount_wad = min(first.amount_wad, mul_div_up(owed_wad, WAD, price_wad))
    paid_wad = min(owed_wad, mul_div_up(amount_wad, price_wad, WAD))
    mark_wad = mul_div_down(amount_wad, prices.fast[terms.feed], WAD) - paid_wad
    return Purchase(first.collateral, amount_wad, paid_wad, mark_wad)


def poked(flag: FlagState, now_s: UnixS) -> FlagState:
    """Advance the active clock of an account whose feeds are fresh (Liquidator._poke)."""
    passed_s = min(now_s - flag.last_poke_s, POKE_CAP_S)
    return replace(flag, tau_s=flag.tau_s + passed_s, last_poke_s=now_s)


def carry(flag: FlagState, slope: SlopeParams, now_s: UnixS) -> int:
    """Return the tau that a new flag takes over from an earlier episode (Liquidator._carry)."""
    since_s = now_s - flag.carried_at_s
    if since_s > CARRY_SPAN_S:
        return 0
    return mul_div_down(min(flag.carry_tau_s, slope.slope_s), exp_wad(-CARRY_DECAY_WAD * since_s), WAD)


def earliest_alarm(account: Account) -> ChainTime:
    """Return the first block and time at which the account can be flagged (Liquidator.flag)."""
    return ChainTime(account.last_risk_block + 1, account.last_risk_s + COOL_OFF_S)


def bond_wad(at_fast: Valuation) -> Wad:
    """Return the bond that a flag takes (Liquidator.flag)."""
    return min(BOND_MAX_WAD, max(BOND_MIN_WAD, mul_div_down(at_fast.notional_wad, BOND_RATE_WAD, WAD)))


def reward_wad(flag: FlagState, at_execution: Valuation) -> Wad:
    """Return what a confirmation pays the flagger, if the Clearing holds as much (Liquidator._reward)."""
    repeated = flag.carried_at_s != 0 and flag.flagged_at_s <= flag.carried_at_s + CARRY_SPAN_S
    if at_execution.equity_wad <= 0 or repeated:
        return 0
    wanted = REWARD_BASE_WAD + mul_div_down(at_execution.notional_wad, REWARD_RATE_WAD, WAD)
    return min(wanted, mul_div_down(at_execution.equity_wad, REWARD_EQUITY_SHARE_WAD, WAD))


def is_curable(view: View, slope: SlopeParams, *, priced: bool) -> bool:
    """Tell whether H >= 1 + beta_cure at both oracles, or no open risk (Liquidator._curable)."""
    if not view.account.legs:
        return view.account.cash_wad >= 0
    level_wad = WAD + slope.beta_cure_wad
    return priced and not view.fast.breaches(level_wad) and not view.slow.breaches(level_wad)


def is_insolvent(view: View) -> bool:
    """Tell whether E <= 0 at all three prices (Liquidator._insolvent)."""
    return all(m.equity_wad <= 0 for m in (view.fast, view.slow, view.execution))


def incentive_wad(look: Outlook, part: Wad, notional_wad: Wad) -> Wad:
    """Return what the insurance offers for a part of an insolvent account (Liquidator._incentive).

    The smallest fee, at most the risk taken over; or a share of that which rises, on the episode's clock,
    until somebody comes.
    """
    moved_wad = mul_div_down(risk_wad(look), part, WAD)
    least = min(mul_div_down(look.slope.k0_wad, notional_wad, WAD), moved_wad)
    if not look.flag.insolvent_tau_s:
        return least
    t_s = min(look.flag.tau_s + 1 - look.flag.insolvent_tau_s, INSOLVENCY_RAMP_S)
    return max(least, mul_div_down(moved_wad, t_s, INSOLVENCY_RAMP_S))


def incentive_step_wad(look: Outlook) -> Wad:
    """Return by how much the longest step of the clock raises the offer for the whole of an account."""
    return mul_div_down(risk_wad(look), POKE_CAP_S, INSOLVENCY_RAMP_S)


def is_expirable(flag: FlagState, now_s: UnixS) -> bool:
    """Tell whether a poked alarm has stood long enough to end unconfirmed (Liquidator.expire)."""
    active_s = flag.tau_s - flag.tau_at_flag_s
    return active_s >= EXPIRY_ACTIVE_S or now_s >= flag.flagged_at_s + EXPIRY_WALL_S


def sale_price_wad(terms: CollateralTerms, execution_wad: Wad, slope: SlopeParams, elapsed_s: int) -> Wad:
    """Return p_L (1 - delta), delta rising over the slope, rounded up (Liquidator._salePrice)."""
    discount_wad = terms.sale_disc_max_wad * min(elapsed_s, slope.slope_s) // slope.slope_s
    return mul_div_up(execution_wad, WAD - discount_wad, WAD)


def _episode(account: Account, terms: Terms, at: ChainTime) -> FlagState:
    """Return the account's alarm; the one that a flag in this block would raise where there is none."""
    flag = account.flag
    if account.phase in {Phase.FLAGGED, Phase.CONFIRMED}:
        return flag
    carried_s = carry(flag, terms.slope_of(account), at.timestamp_s)
    return FlagState(
        flagged_at_s=at.timestamp_s,
        flagged_block=at.block,
        tau_at_flag_s=carried_s,
        tau_s=carried_s,
        last_poke_s=at.timestamp_s,
        tranche_nonce=flag.tranche_nonce,
        carry_tau_s=flag.carry_tau_s,
        carried_at_s=flag.carried_at_s,
        slope=terms.slope_number(account),
    )


def _watched(flag: FlagState, found: View) -> FlagState:
    """Note since when nothing is left that bears a fee (Liquidator._watchEquity)."""
    if not is_insolvent(found) or found.account.holdings:
        return replace(flag, insolvent_tau_s=0)
    return replace(flag, insolvent_tau_s=flag.insolvent_tau_s or flag.tau_s + 1)


def exposures(account: Account, prices: Marks, setting: Setting) -> dict[FeedId, Wad]:
    """Return what positions come to on each feed, as `_rooms` counts it, but with their signs."""
    found: dict[FeedId, Wad] = {}
    for position in setting.positions(account):
        if not position.is_settled:
            feed = position.market.feed
            held = mul_div_trunc(position.size_wad, prices[feed], WAD)
            if is_current(position.array, prices[feed], setting.now_s):
                assert position.array is not None
                held = mul_div_trunc(held, position.array.delta_wad, WAD)
            found[feed] = found.get(feed, 0) + held
    return found


def takes(look: Outlook, moves: Iterable[Move]) -> dict[FeedId, Wad]:
    """Return what a slice adds to its taker's positions on each feed, collateral that it buys included."""
    legs = tuple(Leg(move.market, move.size_wad, 0) for move in moves)
    found = exposures(replace(look.sold.account, legs=legs), look.prices.execution, look.setting)
    for sale in look.sales:
        worth_wad = mul_div_trunc(sale.amount_wad, look.prices.execution[sale.feed], WAD)
        found[sale.feed] = found.get(sale.feed, 0) + worth_wad
    return found


def smallest_wad(look: Outlook) -> Wad:
    """Return the smallest slice as a fraction of the book (Liquidator._fraction)."""
    return _raised(look, 1)


def risk_wad(look: Outlook) -> Wad:
    """Return M, at most what as many units of the underlyings by themselves require (Liquidator._risk)."""
    risks, execution = look.setting.terms.risks, look.prices.execution
    alone = 0
    for position in look.setting.positions(look.sold.account):
        if not position.is_settled:
            feed = position.market.feed
            notional_wad = mul_div_up(abs(position.size_wad), execution[feed], WAD)
            alone += mul_div_up(notional_wad, risks[feed].mmr_wad, WAD)
    return min(alone, look.sold.execution.requirement_wad)


def _is_halted(found: View, world: Globals, now_s: UnixS) -> bool:
    """Tell whether the highest breaker level holds a slice back; not for ever where equity is gone."""
    late = is_insolvent(found) and now_s >= world.breaker_raised_at_s + BREAKER_PATIENCE_S
    return world.breaker_level > 2 and not late


def _rooms(account: Account, execution: Marks, setting: Setting, oracles: OracleView) -> tuple[Room, ...]:
    """Return what the book holds of each underlying, and its bucket as it has drained (Liquidator._rooms)."""
    notionals: dict[FeedId, Wad] = {}
    for position in setting.positions(account):
        if not position.is_settled:
            feed = position.market.feed
            held = mul_div_down(abs(position.size_wad), execution[feed], WAD)
            if is_current(position.array, execution[feed], setting.now_s):
                assert position.array is not None
                held = mul_div_down(held, abs(position.array.delta_wad), WAD)
            notionals[feed] = notionals.get(feed, 0) + held
    return tuple(
        _room(feed, notional, oracles.buckets[feed], setting.now_s) for feed, notional in notionals.items()
    )


def _room(feed: FeedId, notional_wad: Wad, bucket: BucketView, now_s: UnixS) -> Room:
    drained = mul_div_down(bucket.cap_wad, now_s - bucket.at_s, BUCKET_SPAN_S)
    used_wad = min(bucket.used_wad, bucket.cap_wad)
    return Room(feed, notional_wad, max(0, used_wad - drained), bucket.cap_wad)


def _filled(oracles: OracleView, look: Outlook, part: Wad) -> OracleView:
    """Fill the buckets with what a slice moved, no further than to the brim (Liquidator._fill)."""
    now_s = look.setting.now_s
    filled = {
        room.feed: BucketView(
            min(room.used_wad + mul_div_up(room.notional_wad, part, WAD), room.cap_wad), now_s, room.cap_wad
        )
        for room in look.rooms
        if room.notional_wad
    }
    return replace(oracles, buckets={**oracles.buckets, **filled})


def _drawn(oracles: OracleView, fee: Fee, covered_wad: Wad) -> OracleView:
    """Pay fee and debt out of the insurance, and its part of the fee in."""
    world, paid_wad = oracles.world, fee.from_insurance_wad + covered_wad
    left = replace(
        world,
        insurance_wad=world.insurance_wad + fee.whole_wad - fee.taker_wad - paid_wad,
        drawable_wad=world.drawable_wad - paid_wad,
    )
    return replace(oracles, world=left)


def _taker_margin(taker: Account, oracles: OracleView, setting: Setting) -> Valuation:
    """Return the initial margin that decides (MarginEngine.initial and initialSlow)."""
    prices = prices_of(feeds_of(taker, setting.terms), oracles, 0, setting.now_s)
    beta_wad = setting.terms.slope_of(taker).beta_wad
    return worst_initial(taker, prices.fast, prices.slow, setting, beta_wad)


def _sell_for_debt(
    found: View, prices: Prices, setting: Setting, slope: SlopeParams, *, q_wad: Wad, t_s: int
) -> tuple[View, tuple[Sale, ...]]:
    """Sell collateral while cash is negative, no more than lifts q E to M (Liquidator._sellForDebt)."""
    view = found
    sales: list[Sale] = []
    while view.account.cash_wad < 0 and view.account.holdings:
        terms = setting.terms.collaterals[view.account.holdings[0].collateral]
        sale = _next_sale(view, prices.execution[terms.feed], terms, slope, q_wad=q_wad, t_s=t_s)
        if sale.amount_wad == 0:
            break
        whole = sale.amount_wad == view.account.holdings[0].amount_wad
        rest = sell_first_holding(view.account, sale.amount_wad, sale.paid_wad, setting.now_s)
        view = view_of(rest, prices, setting)
        sales.append(sale)
        if not whole:
            break
    return view, tuple(sales)


def _next_sale(
    view: View, execution_wad: Wad, terms: CollateralTerms, slope: SlopeParams, *, q_wad: Wad, t_s: int
) -> Sale:
    price_wad = sale_price_wad(terms, execution_wad, slope, t_s)
    gain_wad = price_wad - mul_div_down(execution_wad, terms.h_mm_wad, WAD)
    missing_wad = mul_div_down(view.execution.requirement_wad, WAD, q_wad) - view.execution.equity_wad
    if missing_wad <= 0:
        return Sale(terms.feed, 0, 0)
    debt_wad = -view.account.cash_wad
    for_debt = mul_div_up(debt_wad, WAD, price_wad)
    has_wad = view.account.holdings[0].amount_wad
    amount_wad = min(for_debt, mul_div_down(missing_wad, WAD, gain_wad), has_wad)
    return Sale(terms.feed, amount_wad, min(debt_wad, mul_div_up(amount_wad, price_wad, WAD)))


def _step_room(slope: SlopeParams, flag: FlagState, m: Valuation) -> Wad:
    """Return what is left of the window, as a fraction of what is left of the book (Liquidator._fraction)."""
    if m.equity_wad * 2 <= m.requirement_wad:
        return WAD
    if flag.step_used_wad >= slope.step_cap_wad:
        return 0
    return mul_div_down(slope.step_cap_wad - flag.step_used_wad, WAD, WAD - flag.step_used_wad)


def _part(look: Outlook, taker: Account, max_fraction_wad: Wad) -> Wad | Refuse:
    """Return the fraction to close, or why none is."""
    refusal = _not_in_breach(look) or _cannot_begin(look, taker)
    if refusal:
        return refusal
    part = _bounded(look, max_fraction_wad)
    if isinstance(part, Refuse):
        return part
    part = _raised(look, part)
    if part > max_fraction_wad:
        least = f"the smallest slice is {part / WAD:.6f}"
        return refuse("slope.slice_outside", least, f"<= {max_fraction_wad / WAD:.6f}")
    if part == 0 and not look.sales:
        return refuse("slope.empty_slice", "nothing to close and no collateral to sell", "> 0")
    return part


def _terms(
    flag: FlagState,
    found: View,
    sold: View,
    execution: Marks,
    setting: Setting,
    slope: SlopeParams,
    *,
    t_s: int,
) -> tuple[FlagState, Wad, bool]:
    """Return the flag with its fee cap, the fee, and whether the insurance pays it (Liquidator._terms)."""
    confirmed = found.account.phase is Phase.CONFIRMED
    cap_wad = flag.fee_cap_wad if confirmed else _first_fee_cap(slope, found.execution)
    if sold.execution.equity_wad <= 0:
        worth_wad = math.worth_wad(sold.account, execution, setting)
        whole = Valuation(worth_wad, 0, sold.execution.notional_wad)
        insolvent = is_insolvent(found)
        most_wad = math.fee_cap(slope, whole)
        if not insolvent:
            most_wad = min(most_wad, cap_wad)
        kappa_wad = math.fee(slope, 0, most_wad)
        return replace(flag, fee_cap_wad=cap_wad), kappa_wad, insolvent and worth_wad <= 0
    cap_wad = min(cap_wad, math.fee_cap(slope, sold.execution))
    return replace(flag, fee_cap_wad=cap_wad), math.fee(slope, t_s, cap_wad), False


def _first_fee_cap(slope: SlopeParams, m: Valuation) -> Wad:
    """Return the fee cap of a confirmation; without equity there is nothing to cap a fee by."""
    return math.fee_cap(slope, m) if m.equity_wad > 0 else math.UINT64_MAX


def _bounded(look: Outlook, max_fraction_wad: Wad) -> Wad | Refuse:
    """Return the slope's part within the taker's wish, the step window and the buckets."""
    part = min(look.closeable_wad, max_fraction_wad)
    if not look.capped:
        return part
    part = min(part, look.step_room_wad)
    for room in look.rooms:
        if part == 0 or room.notional_wad == 0:
            continue
        if room.used_wad >= room.cap_wad:
            found = f"{room.feed}: slices moved {room.used_wad / WAD:.2f} within the last minute"
            return refuse("bucket.empty", found, f"< {room.cap_wad / WAD:.2f}")
        part = min(part, room.part_wad)
    return part


def _raised(look: Outlook, part: Wad) -> Wad:
    """Raise a part to the smallest slice, and to all where only dust would stay (Liquidator._fraction)."""
    slope, notional = look.slope, look.sold.execution.notional_wad
    if part == 0 or notional == 0:
        return part
    part = max(part, min(WAD, mul_div_up(slope.min_slice_wad, WAD, notional)))
    left = mul_div_down(notional, WAD - part, WAD)
    return WAD if notional <= slope.dust_wad or left < slope.dust_wad else part


def _fee(look: Outlook, part: Wad, moves: Iterable[Move], drawable_wad: Wad) -> Fee:
    """Split the fee; where nothing is left to take it from, the insurance pays as far as it may."""
    notional_wad = sum(move.notional_wad for move in moves)
    whole_wad = mul_div_down(look.kappa_wad, notional_wad, WAD)
    taker_wad = mul_div_down(whole_wad, TAKER_SHARE_WAD, WAD)
    offered_wad = incentive_wad(look, part, notional_wad) if look.insured else 0
    return Fee(notional_wad, whole_wad, taker_wad, from_insurance_wad=min(offered_wad, drawable_wad))


def _counted(flag: FlagState, part: Wad) -> FlagState:
    used_wad = flag.step_used_wad + mul_div_up(part, WAD - flag.step_used_wad, WAD)
    return replace(flag, step_used_wad=used_wad, tranche_nonce=flag.tranche_nonce + 1)


def _end(after: View, slope: SlopeParams, now_s: UnixS) -> tuple[Account, Wad]:
    """Write off what has only debt left, cure what is safe; return the account and its bad debt."""
    account = after.account
    settled = replace(account.flag, bond_wad=0)
    if not account.legs and not account.holdings and account.cash_wad < 0:
        return replace(write_off(account), flag=settled), -account.cash_wad
    if is_curable(after, slope, priced=True):
        cured = replace(settled, carry_tau_s=settled.tau_s, carried_at_s=now_s)
        return replace(account, phase=Phase.HEALTHY, flag=cured), 0
    return account, 0


def _mark(moves: Iterable[Move], look: Outlook) -> Wad:
    """Return what legs and collateral are worth at the fast price over what the taker pays for them.

    Rounded as what is paid: where p_L is p_F a wei would otherwise seem lost, and the slice wait for ever.
    """
    fast, setting = look.prices.fast, look.setting
    legs = (
        mul_div_trunc(move.size_wad, unit_value_wad(position, fast[position.market.feed]), WAD)
        - move.value_wad
        for move in moves
        for position in [setting.position(Leg(move.market, move.size_wad, 0))]
    )
    sales = (mul_div_up(sale.amount_wad, fast[sale.feed], WAD) - sale.paid_wad for sale in look.sales)
    return sum(legs) + sum(sales)


def _barred(account: Account, taker: Account) -> Refuse | None:
    if account.phase is not Phase.CONFIRMED:
        return refuse("slope.not_confirmed", f"the account is {account.phase}", "confirmed")
    if account.owner == taker.owner:
        return refuse("taker.own_account", f"both accounts are {taker.owner}'s", "two owners")
    if taker.phase is not Phase.HEALTHY:
        return refuse("taker.not_healthy", f"the taker is {taker.phase}", "healthy")
    return None


def _not_in_breach(look: Outlook) -> Refuse | None:
    if not look.sight.priced:
        return refuse("oracle.stale", "a feed of the account is stale", "both oracles fresh")
    if look.sight.arrays_silent:
        return refuse("array.silent", "a risk array of the account is too old", "current, or given up")
    if look.halted:
        return refuse("breaker.level", "the breaker holds back every slice", "<= 2")
    for m in (look.found.fast, look.found.slow, look.found.execution):
        if not m.breaches_scaled(look.q_wad):
            found = f"E {m.equity_wad / WAD:.6f} against M {m.requirement_wad / WAD:.6f}"
            return refuse("slope.not_breached", found, f"q E < M with q {look.q_wad / WAD:.6f}")
    return None


def _cannot_begin(look: Outlook, taker: Account) -> Refuse | None:
    if look.sales and taker.cash_wad < look.paid_wad:
        found = f"cash {taker.cash_wad / WAD:.6f}"
        return refuse("taker.no_cash", found, f"{look.paid_wad / WAD:.6f} for the collateral")
    if look.step_room_wad == 0:
        used = f"{look.flag.step_used_wad / WAD:.6f} of the book went since {look.flag.step_start_s}"
        return refuse("slope.step_cap", used, "the window's cap")
    return None


def _overburdened(taker: Account, oracles: OracleView, look: Outlook) -> Refuse | None:
    """Refuse for a taker with too many legs, and for one that cannot be judged as the account was."""
    if len(taker.legs) > MAX_LEGS:
        return refuse("taker.too_many_legs", f"{len(taker.legs)} legs", f"<= {MAX_LEGS}")
    sight = sight_of(taker, oracles, look.setting)
    if not (sight.priced if look.sight.slow_only else sight.fresh):
        return refuse("oracle.stale", "a feed of the taker is stale", "both oracles fresh")
    return None


def refuse(rule: str, evidence: str, bound: object) -> Refuse:
    """Refuse by a rule, on evidence and against a bound."""
    return Refuse(Reason(rule, evidence, str(bound)))
