"""What the Liquidator contract would do at one moment of chain time, to the wei.

Mirrors ``contracts/src/Liquidator.sol``: the view of an account at three price vectors, its clock, the sale
of collateral for debt, the fraction, and the whole of ``liquidate``. Every function takes instruments and
prices for granted: the caller has seen to it that none is lacking.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain import Account, ChainTime, FlagState, OracleView, Phase, Reason, Refuse, Valuation
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
from keeper.protocols.hybrid.params import CollateralTerms, Rules, SlopeParams
from keeper.units import WAD, FeedId, UnixS, Wad, mul_div_down, mul_div_up

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


@dataclass(frozen=True, slots=True)
class Prices:
    """The three price vectors of an account's feeds."""

    fast: Marks
    slow: Marks
    execution: Marks


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

    flag: FlagState
    prices: Prices
    fresh: bool
    found: View
    sold: View
    sales: tuple[Sale, ...]
    since_confirmation_s: int
    q_wad: Wad
    kappa_wad: Wad
    insured: bool
    """Whether nothing is left that could bear a fee, so that the insurance pays the taker."""
    closeable_wad: Wad
    step_room_wad: Wad
    """What the step window leaves, as a fraction of what is left of the book; 0 where its cap is reached."""

    @property
    def paid_wad(self) -> Wad:
        """What the taker pays for the collateral."""
        return sum(sale.paid_wad for sale in self.sales)


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
    sales: tuple[Sale, ...]
    moves: tuple[Move, ...]
    taker_mark_wad: Wad
    """What legs and collateral are worth at the fast price over what the taker pays for them."""
    account: Account
    taker: Account
    taker_margin: Valuation
    """The taker's initial margin afterwards, at the oracle that decides."""


def feeds_of(account: Account, rules: Rules) -> tuple[FeedId, ...]:
    """Return every feed that the account's margin needs, each once: legs first, then holdings."""
    legs = (rules.perps[leg.market].feed for leg in account.legs)
    holdings = (rules.collaterals[holding.collateral].feed for holding in account.holdings)
    return tuple(dict.fromkeys((*legs, *holdings)))


def is_fresh(feeds: Iterable[FeedId], oracles: OracleView, now_s: UnixS) -> bool:
    """Tell whether both oracles are fresh on every feed."""
    return all(oracles[feed].fast_fresh(now_s) and oracles[feed].slow_ok for feed in feeds)


def prices_of(
    feeds: Iterable[FeedId], oracles: OracleView, slope: SlopeParams, since_confirmation_s: int
) -> Prices:
    """Collect the fast and slow prices and derive the execution prices (Liquidator._view and _reprice)."""
    views = [oracles[feed] for feed in feeds]
    return Prices(
        fast={view.feed: view.fast_wad for view in views},
        slow={view.feed: view.slow_wad for view in views},
        execution={
            view.feed: math.execution_price(slope, view.fast_wad, view.slow_wad, since_confirmation_s)
            for view in views
        },
    )


def view_of(account: Account, prices: Prices, rules: Rules) -> View:
    """Value an account at the three price vectors."""
    fast, slow, execution = (
        math.maintenance(account, marks, rules) for marks in (prices.fast, prices.slow, prices.execution)
    )
    return View(account, fast, slow, execution)


def outlook(account: Account, oracles: OracleView, at: ChainTime, rules: Rules) -> Outlook:
    """Foresee what ``liquidate`` would find in block ``at`` (its first half, up to _fraction).

    An account that is not confirmed is judged as though it were confirmed in that block, and one that is not
    flagged as though both happened in it.
    """
    now_s, slope = at.timestamp_s, rules.slope
    feeds = feeds_of(account, rules)
    fresh = is_fresh(feeds, oracles, now_s)
    alarm = _episode(account, slope, at)
    flag = poked(alarm, now_s) if fresh else alarm
    t_s = flag.tau_s - flag.tau_at_confirm_s if flag.confirmed_at_s else 0
    q_wad = math.decay(slope, flag.tau_s)
    prices = prices_of(feeds, oracles, slope, t_s)
    found = view_of(account, prices, rules)
    sales: tuple[Sale, ...] = ()
    sold = found
    if fresh:
        sold, sales = _sell_for_debt(found, prices, rules, q_wad=q_wad, t_s=t_s, now_s=now_s)
    flag, kappa_wad, insured = _terms(flag, found, sold, prices.execution, rules, t_s=t_s)
    if now_s >= flag.step_start_s + slope.step_window_s:
        flag = replace(flag, step_start_s=now_s, step_used_wad=0)
    return Outlook(
        flag=flag,
        prices=prices,
        fresh=fresh,
        found=found,
        sold=sold,
        sales=sales,
        since_confirmation_s=t_s,
        q_wad=q_wad,
        kappa_wad=kappa_wad,
        insured=insured,
        closeable_wad=math.closeable(sold.execution, kappa_wad, q_wad),
        step_room_wad=_step_room(slope, flag, sold.execution),
    )


def liquidate(
    account: Account,
    taker: Account,
    oracles: OracleView,
    at: ChainTime,
    rules: Rules,
    *,
    max_fraction_wad: Wad,
    insurance_wad: Wad = 0,
) -> Slice | Refuse:
    """Carry out ``liquidate`` in block ``at``; refuse where the contract reverts.

    Left to the caller: deadline, tranche number, the least fraction and fee, and whether ``taker_margin``
    suffices. Property: cash and quote legs of both, the insurance and the bad debt add up as before.
    """
    refusal = _barred(account, taker)
    if refusal:
        return refusal
    look = outlook(account, oracles, at, rules)
    part = _part(rules.slope, look, taker, max_fraction_wad)
    if isinstance(part, Refuse):
        return part
    payer = replace(taker, cash_wad=taker.cash_wad - look.paid_wad)
    account, taker, moves = take_slice(
        look.sold.account, payer, part, execution=look.prices.execution, rules=rules, at=at
    )
    refusal = _overburdened(taker, oracles, rules, at.timestamp_s)
    if refusal:
        return refusal
    fee = _fee(rules.slope, look, moves, insurance_wad)
    account = pay(replace(account, flag=_counted(look.flag, part)), -fee.whole_wad, at.timestamp_s)
    taker = pay(taker, fee.taker_wad + fee.from_insurance_wad, at.timestamp_s)
    after = view_of(account, look.prices, rules)
    ended, bad_debt_wad = _end(after, rules.slope, at.timestamp_s)
    taker_prices = prices_of(feeds_of(taker, rules), oracles, rules.slope, 0)
    return Slice(
        q_wad=look.q_wad,
        kappa_wad=look.kappa_wad,
        fraction_wad=part,
        notional_wad=fee.notional_wad,
        before=look.found.execution,
        after=after.execution,
        fee=fee,
        bad_debt_wad=bad_debt_wad,
        sales=look.sales,
        moves=moves,
        taker_mark_wad=_mark(moves, look.sales, look.prices.fast, rules),
        account=ended,
        taker=taker,
        taker_margin=worst_initial(taker, taker_prices.fast, taker_prices.slow, rules),
    )


def purchase(
    account: Account, oracles: OracleView, at: ChainTime, rules: Rules, *, max_quote_wad: Wad
) -> Purchase | Refuse:
    """Foresee ``buyCollateral`` of the first holding in block ``at``, for at most ``max_quote_wad``."""
    feeds = feeds_of(account, rules)
    if not account.debt_since_s or account.cash_wad >= 0 or not account.holdings:
        return refuse(
            "purchase.nothing_to_sell", f"cash {account.cash_wad / WAD:.6f}", "debt and collateral only"
        )
    if not is_fresh(feeds, oracles, at.timestamp_s):
        return refuse("oracle.stale", "a feed of the account is stale", "both oracles fresh")
    elapsed_s, first = at.timestamp_s - account.debt_since_s, account.holdings[0]
    terms = rules.collaterals[first.collateral]
    prices = prices_of(feeds, oracles, rules.slope, elapsed_s)
    price_wad = sale_price_wad(terms, prices.execution[terms.feed], rules.slope, elapsed_s)
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


def is_curable(view: View, slope: SlopeParams, *, fresh: bool) -> bool:
    """Tell whether H >= 1 + beta_cure at both oracles, or no open risk (Liquidator._curable)."""
    if not view.account.legs:
        return view.account.cash_wad >= 0
    level_wad = WAD + slope.beta_cure_wad
    return fresh and not view.fast.breaches(level_wad) and not view.slow.breaches(level_wad)


def is_expirable(flag: FlagState, now_s: UnixS) -> bool:
    """Tell whether a poked alarm has stood long enough to end unconfirmed (Liquidator.expire)."""
    active_s = flag.tau_s - flag.tau_at_flag_s
    return active_s >= EXPIRY_ACTIVE_S or now_s >= flag.flagged_at_s + EXPIRY_WALL_S


def sale_price_wad(terms: CollateralTerms, execution_wad: Wad, slope: SlopeParams, elapsed_s: int) -> Wad:
    """Return p_L (1 - delta), delta rising over the slope, rounded up (Liquidator._salePrice)."""
    discount_wad = terms.sale_disc_max_wad * min(elapsed_s, slope.slope_s) // slope.slope_s
    return mul_div_up(execution_wad, WAD - discount_wad, WAD)


def _episode(account: Account, slope: SlopeParams, at: ChainTime) -> FlagState:
    """Return the account's alarm; the one that a flag in this block would raise where there is none."""
    flag = account.flag
    if account.phase in {Phase.FLAGGED, Phase.CONFIRMED}:
        return flag
    carried_s = carry(flag, slope, at.timestamp_s)
    return FlagState(
        flagged_at_s=at.timestamp_s,
        flagged_block=at.block,
        tau_at_flag_s=carried_s,
        tau_s=carried_s,
        last_poke_s=at.timestamp_s,
        tranche_nonce=flag.tranche_nonce,
        carry_tau_s=flag.carry_tau_s,
        carried_at_s=flag.carried_at_s,
    )


def _sell_for_debt(
    found: View, prices: Prices, rules: Rules, *, q_wad: Wad, t_s: int, now_s: UnixS
) -> tuple[View, tuple[Sale, ...]]:
    """Sell collateral while cash is negative, no more than lifts q E to M (Liquidator._sellForDebt)."""
    view = found
    sales: list[Sale] = []
    while view.account.cash_wad < 0 and view.account.holdings:
        sale = _next_sale(view, prices.execution, q_wad, t_s, rules)
        if sale.amount_wad == 0:
            break
        whole = sale.amount_wad == view.account.holdings[0].amount_wad
        rest = sell_first_holding(view.account, sale.amount_wad, sale.paid_wad, now_s)
        view = view_of(rest, prices, rules)
        sales.append(sale)
        if not whole:
            break
    return view, tuple(sales)


def _next_sale(view: View, execution: Marks, q_wad: Wad, t_s: int, rules: Rules) -> Sale:
    account, first = view.account, view.account.holdings[0]
    terms = rules.collaterals[first.collateral]
    execution_wad = execution[terms.feed]
    price_wad = sale_price_wad(terms, execution_wad, rules.slope, t_s)
    gain_wad = price_wad - mul_div_down(execution_wad, terms.h_mm_wad, WAD)
    missing_wad = mul_div_down(view.execution.requirement_wad, WAD, q_wad) - view.execution.equity_wad
    if missing_wad <= 0:
        return Sale(terms.feed, 0, 0)
    debt_wad = -account.cash_wad
    for_debt = mul_div_up(debt_wad, WAD, price_wad)
    amount_wad = min(for_debt, mul_div_down(missing_wad, WAD, gain_wad), first.amount_wad)
    return Sale(terms.feed, amount_wad, min(debt_wad, mul_div_up(amount_wad, price_wad, WAD)))


def _step_room(slope: SlopeParams, flag: FlagState, m: Valuation) -> Wad:
    """Return what is left of the window, as a fraction of what is left of the book (Liquidator._fraction)."""
    if m.equity_wad * 2 <= m.requirement_wad:
        return WAD
    if flag.step_used_wad >= slope.step_cap_wad:
        return 0
    return mul_div_down(slope.step_cap_wad - flag.step_used_wad, WAD, WAD - flag.step_used_wad)


def _part(slope: SlopeParams, look: Outlook, taker: Account, max_fraction_wad: Wad) -> Wad | Refuse:
    """Return the fraction to close, or why none is."""
    refusal = _not_in_breach(look) or _cannot_begin(look, taker)
    if refusal:
        return refusal
    part = _fraction(slope, look, max_fraction_wad)
    if part > max_fraction_wad:
        least = f"the smallest slice is {part / WAD:.6f}"
        return refuse("slope.slice_outside", least, f"<= {max_fraction_wad / WAD:.6f}")
    if part == 0 and not look.sales:
        return refuse("slope.empty_slice", "nothing to close and no collateral to sell", "> 0")
    return part


def _terms(
    flag: FlagState, found: View, sold: View, execution: Marks, rules: Rules, *, t_s: int
) -> tuple[FlagState, Wad, bool]:
    """Return the flag with its fee cap, the fee, and whether the insurance pays it (Liquidator._terms)."""
    slope = rules.slope
    confirmed = found.account.phase is Phase.CONFIRMED
    cap_wad = flag.fee_cap_wad if confirmed else math.fee_cap(slope, found.execution)
    if all(m.equity_wad <= 0 for m in (found.fast, found.slow, found.execution)):
        worth_wad = math.worth_wad(sold.account, execution, rules)
        whole = Valuation(worth_wad, 0, sold.execution.notional_wad)
        kappa_wad = math.fee(slope, 0, math.fee_cap(slope, whole))
        return replace(flag, fee_cap_wad=cap_wad), kappa_wad, worth_wad <= 0
    lower_wad = min(cap_wad, math.fee_cap(slope, sold.execution))
    kept_wad = lower_wad if sold.execution.equity_wad > 0 else cap_wad
    return replace(flag, fee_cap_wad=kept_wad), math.fee(slope, t_s, lower_wad), False


def _fraction(slope: SlopeParams, look: Outlook, max_fraction_wad: Wad) -> Wad:
    """Return the part to close: raised to the smallest slice, and all where only dust would stay."""
    notional = look.sold.execution.notional_wad
    part = min(look.closeable_wad, max_fraction_wad, look.step_room_wad)
    if part == 0 or notional == 0:
        return part
    part = max(part, min(WAD, mul_div_up(slope.min_slice_wad, WAD, notional)))
    left = mul_div_down(notional, WAD - part, WAD)
    return WAD if notional <= slope.dust_wad or left < slope.dust_wad else part


def _fee(slope: SlopeParams, look: Outlook, moves: Iterable[Move], insurance_wad: Wad) -> Fee:
    """Split the fee; where nothing is left to take it from, the insurance pays k0 as far as it reaches."""
    notional_wad = sum(abs(move.value_wad) for move in moves)
    whole_wad = mul_div_down(look.kappa_wad, notional_wad, WAD)
    taker_wad = mul_div_down(whole_wad, TAKER_SHARE_WAD, WAD)
    owed_wad = mul_div_down(slope.k0_wad, notional_wad, WAD) if look.insured else 0
    available_wad = insurance_wad + whole_wad - taker_wad
    return Fee(notional_wad, whole_wad, taker_wad, from_insurance_wad=min(owed_wad, available_wad))


def _counted(flag: FlagState, part: Wad) -> FlagState:
    used_wad = flag.step_used_wad + mul_div_up(part, WAD - flag.step_used_wad, WAD)
    return replace(flag, step_used_wad=used_wad, tranche_nonce=flag.tranche_nonce + 1)


def _end(after: View, slope: SlopeParams, now_s: UnixS) -> tuple[Account, Wad]:
    """Write off what has only debt left, cure what is safe; return the account and its bad debt."""
    account = after.account
    settled = replace(account.flag, bond_wad=0)
    if not account.legs and not account.holdings and account.cash_wad < 0:
        return replace(write_off(account), flag=settled), -account.cash_wad
    if is_curable(after, slope, fresh=True):
        cured = replace(settled, carry_tau_s=settled.tau_s, carried_at_s=now_s)
        return replace(account, phase=Phase.HEALTHY, flag=cured), 0
    return account, 0


def _mark(moves: Iterable[Move], sales: Iterable[Sale], fast: Marks, rules: Rules) -> Wad:
    legs = sum(
        mul_div_down(move.size_wad, fast[rules.perps[move.market].feed], WAD) - move.value_wad
        for move in moves
    )
    return legs + sum(mul_div_down(sale.amount_wad, fast[sale.feed], WAD) - sale.paid_wad for sale in sales)


def _barred(account: Account, taker: Account) -> Refuse | None:
    if account.phase is not Phase.CONFIRMED:
        return refuse("slope.not_confirmed", f"the account is {account.phase}", "confirmed")
    if account.owner == taker.owner:
        return refuse("taker.own_account", f"both accounts are {taker.owner}'s", "two owners")
    if taker.phase is not Phase.HEALTHY:
        return refuse("taker.not_healthy", f"the taker is {taker.phase}", "healthy")
    return None


def _not_in_breach(look: Outlook) -> Refuse | None:
    if not look.fresh:
        return refuse("oracle.stale", "a feed of the account is stale", "both oracles fresh")
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


def _overburdened(taker: Account, oracles: OracleView, rules: Rules, now_s: UnixS) -> Refuse | None:
    if len(taker.legs) > MAX_LEGS:
        return refuse("taker.too_many_legs", f"{len(taker.legs)} legs", f"<= {MAX_LEGS}")
    if not is_fresh(feeds_of(taker, rules), oracles, now_s):
        return refuse("oracle.stale", "a feed of the taker is stale", "both oracles fresh")
    return None


def refuse(rule: str, evidence: str, bound: object) -> Refuse:
    """Refuse by a rule, on evidence and against a bound."""
    return Refuse(Reason(rule, evidence, str(bound)))
