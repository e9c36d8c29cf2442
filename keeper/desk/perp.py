"""Perpetual's rules in their order: whom to look at, what both clocks say of them, and what to take over."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from keeper.columns.snapshot import Snapshot
from keeper.confirm.policy import Policies
from keeper.confirm.weigh import Evidence, timed_out, weigh
from keeper.desk import clocks
from keeper.desk.booking import booking, transfers
from keeper.desk.order import ordered
from keeper.desk.port import Alarm, Judgement, MarginCall, Tried, expect_all, expect_depths
from keeper.domain import (
    Booking,
    Call,
    ChainTime,
    Log,
    Posture,
    Quote,
    Record,
    Refuse,
    Step,
    Unknown,
    Wait,
    Witnesses,
)
from keeper.errors import ChainFault
from keeper.lending import flash
from keeper.plan import economics
from keeper.plan import perp as plan
from keeper.plan.economics import after
from keeper.plan.perp import Case, Means
from keeper.ports import Margin, PerpMarket
from keeper.risk.marks import Marks
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad, Wei, mul_div_up

ROUND = 101
"""Heads within which every account with a position is read again: funding accrues, and no event says so.

A prime: whoever sees only every other block comes round too.
"""


@dataclass(frozen=True, slots=True)
class Params:
    """By which feed gas is valued, and the parameters of both stages."""

    native_feed: FeedId
    confirm: Policies = field(default_factory=Policies)
    plan: plan.Params = field(default_factory=plan.Params)


@dataclass(frozen=True, slots=True)
class Sitting:
    """One head: market and book, the world at both clocks, and the keeper's means as the steps leave them."""

    market: PerpMarket[Any, Any]
    book: Book[Any]
    world: Any
    fast: Any
    quotes: Mapping[FeedId, Quote | Unknown]
    means: Means
    at: ChainTime
    posture: Posture
    witnesses: Witnesses


@dataclass(frozen=True, slots=True)
class PerpDesk:
    """Implements ``desk.port.Desk``: takes positions over into the account of a wallet, or by flash loans.

    What decides is the contract's own view of the head; the fast clock makes ready, and may ask to wait.
    """

    wallet: str
    """Its address in lower case."""
    params: Params

    @property
    def taker(self) -> AccountKey:
        """The wallet's account."""
        return bytes.fromhex(self.wallet[2:]) + bytes(12)

    @property
    def own(self) -> Sequence[AccountKey]:
        """The account that takes positions over."""
        return (self.taker,)

    def expect(self, market: PerpMarket[Any, Any], served: Collection[FeedId]) -> None:
        """Raise ConfigError where one of its feeds has no price, or gas is valued by none of them."""
        expect_all(market.feeds, self.params.native_feed, served)
        expect_depths((*market.feeds, *market.markets), self.params.plan.prudence.depth)

    def calls(self, market: PerpMarket[Any, Any]) -> list[Call]:
        """Ask for nothing: its account says all that the wallet has to act with."""
        del market
        return []

    def decode(self, market: PerpMarket[Any, Any], answers: Sequence[bytes]) -> None:
        """Read nothing."""
        del market, answers

    def lacking(self, book: Book[Any], funds: None) -> list[str]:
        """Name what the keeper has nothing of, where its own account takes over."""
        del funds
        if self.params.plan.flash is not None:
            return []
        taker = book.exact(self.taker)
        is_funded = not isinstance(taker, Unknown) and taker.trader.cash_wad > 0
        return [] if is_funded else ["a deposit in Perpetual's Vault"]

    def sit(
        self,
        market: PerpMarket[Any, Any],
        book: Book[Any],
        world: Any,
        funds: None,
        *,
        quotes: Mapping[FeedId, Quote | Unknown],
        gas_price_wei: Wei,
        at: ChainTime,
        posture: Posture,
        witnesses: Witnesses,
        record: Record,
    ) -> Sitting:
        """Put together what decisions rest on; without its own account or a price of gas there are none."""
        del funds
        taker, native_price_wad = book.exact(self.taker), self.native_price_wad(market, world, quotes)
        if isinstance(taker, Unknown):
            raise ChainFault(f"the keeper's own account cannot be read: {taker.why}")
        if isinstance(native_price_wad, Unknown):
            raise ChainFault(f"{native_price_wad.what} {native_price_wad.why}, so that gas cannot be valued")
        means = Means(taker, gas_price_wei, native_price_wad, record)
        fast = market.fast(world, quotes)
        return Sitting(market, book, world, fast, quotes, means, at, posture, witnesses)

    def carry(self, left: Sitting, sitting: Sitting) -> Sitting:
        """Take over the account as the steps so far leave it."""
        means = replace(sitting.means, taker=left.means.taker, record=left.means.record)
        return replace(sitting, means=means)

    def under_care(
        self,
        sitting: Sitting,
        snapshot: Snapshot,
        suspects: Mapping[AccountKey, str],
        cases: Mapping[AccountKey, ChainTime],
    ) -> Sequence[AccountKey]:
        """List suspects and who has an open case, by urgency, and those whose turn it is to be read."""
        holders = np.flatnonzero(snapshot.legs.counts)
        turn = [snapshot.key(int(row)) for row in holders[sitting.at.block % ROUND :: ROUND]]
        urgent = ordered(
            (*suspects, *cases),
            cases,
            book=sitting.book,
            snapshot=snapshot,
            marks=sitting.market.marks(sitting.fast, {}, sitting.at.timestamp_s),
            at=sitting.at,
            old_blocks=self.params.plan.prudence.old_blocks,
        )
        return [key for key in dict.fromkeys((*urgent, *turn)) if key != self.taker]

    def judge(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> Judgement[Sitting] | Unknown:
        """Judge one account by the contract's own integers at both clocks, and plan what is due."""
        exact = sitting.book.exact(account)
        if isinstance(exact, Unknown):
            return exact
        chain = sitting.market.stand(exact, sitting.world)
        fast = sitting.market.stand(exact, sitting.fast)
        if isinstance(chain, Unknown):
            return chain
        if isinstance(fast, Unknown):
            return fast
        breached = [name for name, margin in (("chain", chain), ("fast", fast)) if not margin.covers()]
        found = Judgement(
            phase=f"breached at {' and '.join(breached)}" if breached else "healthy",
            health=fast.value_wad / fast.required_wad if fast.required_wad else None,
            cared=bool(breached),
            state=",".join(str(each.size_wad) for each in exact.trader.positions.values()),
            decision=None,
            agreed=None,
            left=sitting,
            markets=tuple(each.feed for each in sitting.market.sights(exact, sitting.world, sitting.quotes)),
            solvent=chain.value_wad >= 0,
            shown=not chain.covers(),
        )
        return self._decide(found, alarm, exact, chain=chain, fast=fast) if breached else found

    @staticmethod
    def marks(
        market: PerpMarket[Any, Any], world: Any, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS
    ) -> Marks:
        """Mark them as if the chain said what the fast prices say."""
        return market.marks(market.fast(world, quotes), {}, at_s)

    def call(self, sitting: Sitting, account: AccountKey, buffer_wad: Wad) -> MarginCall | None:
        """Say what would bring an account's health up to a buffer, at the worse of both clocks."""
        worlds = sitting.world, sitting.fast
        return clocks.called(sitting.market, sitting.book.exact(account), worlds, _pair, buffer_wad)

    def divergence(
        self, market: PerpMarket[Any, Any], world: Any, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> float | None:
        """Hold what the fast prices would have the marks be against what they are."""
        return clocks.divergence(market, world, quotes)

    def is_own(self, account: AccountKey) -> bool:
        """Tell whether it is the wallet's account."""
        return account == self.taker

    def ready(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> tuple[Step, ...]:
        """Return the takeovers of an account in breach at the contract's mark that waits for the fast one."""
        exact = sitting.book.exact(account)
        if isinstance(exact, Unknown) or self.is_own(account):
            return ()
        chain = sitting.market.stand(exact, sitting.world)
        if isinstance(chain, Unknown) or chain.covers():
            return ()
        found = Judgement(
            phase="ready", health=None, cared=True, state="", decision=None, agreed=None, left=sitting
        )
        decision = self._decide(found, alarm, exact, chain=chain, fast=chain).decision
        return decision if isinstance(decision, tuple) else ()

    def booked(self, market: PerpMarket[Any, Any], world: Any, logs: Sequence[Log]) -> Booking:
        """Say what one of the wallet's transactions moved, and what that is worth."""
        flash_ = self.params.plan.flash
        held = {self.wallet, flash_.liquidator} if flash_ else {self.wallet}
        moved = market.gained(logs, {self.wallet})
        moved.update(transfers(logs, held))
        return booking(moved, partial(market.worth_wad, world=world))

    def parted(
        self, market: PerpMarket[Any, Any], book: Book[Any], funds: None, held: Sequence[FeedId]
    ) -> Sequence[FeedId]:
        """Return the markets in which its own account has no position."""
        del funds
        taker = book.exact(self.taker)
        if isinstance(taker, Unknown):
            return []
        return [each for each in held if each in market.markets and not market.size_wad(taker, each)]

    def native_price_wad(
        self, market: PerpMarket[Any, Any], world: Any, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> Wad | Unknown:
        """Return the fast price, or the index of a market of that feed where nobody serves it."""
        feed = self.params.native_feed
        quote = quotes.get(feed)
        price_wad = quote.price_wad if isinstance(quote, Quote) else market.index_wad(feed, world)
        return Unknown(feed, "has no price") if price_wad is None else price_wad

    def vouches(self, tried: Tried, step: Step) -> bool:
        """Tell whether the same takeover went through, bar the least profit, which was left."""
        return (
            isinstance(tried.result, bytes)
            and step.gas_limit == tried.step.gas_limit
            and flash.goes_through_as(tried.step.act, tried.result, step.act)
        )

    def pick(self, sitting: Sitting, tried: Sequence[Tried]) -> Tried:
        """Take the only step of its own account; of those with borrowed margin, by what each brought."""
        if self.params.plan.flash is None:
            [only] = tried
            return only
        went = [each for each in tried if isinstance(each.result, bytes)]
        if not went:
            return tried[0]
        account = sitting.book.exact(went[0].step.act.account)
        case = _case(went[0].step.case_id, account, sitting)
        went = [replace(each, step=self._brought(each, case)) for each in went]
        step = plan.chosen(case, [each.step for each in went], self.params.plan)
        if isinstance(step, Refuse):
            return replace(went[0], result=step)
        return next(each for each in went if each.step is step)

    def _brought(self, tried: Tried, case: Case) -> Step:
        """Return a step with the profit that it brought in its simulation, less gas."""
        assert isinstance(tried.result, bytes)
        brought_wad = flash.profit(tried.result) * case.market.unit_wad(case.world)
        gas = plan.flash_gas(case.account, self.params.plan)
        found = economics.weigh(tried.step.kind, case.means, income_wad=brought_wad, exit_wad=0, gas=gas)
        return replace(tried.step, expected_profit_wad=found.profit_wad, economics=found)

    def _decide(
        self, found: Judgement[Sitting], alarm: Alarm, account: Any, *, chain: Margin, fast: Margin
    ) -> Judgement[Sitting]:
        """Add the decision to what was found, and what is taken over to the keeper's account."""
        sitting, policies = found.left, self.params.confirm
        evidence = Evidence(
            account=account.key,
            found=f"chain {_told(chain)}, fast {_told(fast)}",
            chain=not chain.covers(),
            fast=not fast.covers(),
            sights=sitting.market.sights(account, sitting.world, sitting.quotes),
            health_at=partial(_health_at, sitting, account),
            unseen=sitting.market.unseen(account, sitting.world),
            witnesses=sitting.witnesses,
            tripped=sitting.posture.tripped,
            shown=alarm.shown,
        )
        policy = policies.of((each.feed for each in evidence.sights), sitting.posture)
        verdict = weigh(policy, alarm.since, evidence, sitting.at, policies.block_time_s)
        if isinstance(verdict, Wait | Refuse):
            # Who is in breach at a mark that nobody else can speak of was no false alarm.
            is_held = alarm.agreed or (evidence.chain and evidence.unseen)
            given_up = None if is_held else timed_out(policy, alarm.since, sitting.at)
            return replace(found, cared=given_up is None, decision=given_up or verdict)
        prudence, health_wad = self.params.plan.prudence, _health_wad(chain)
        if rest := prudence.rest.wait(alarm.closed, health_wad, sitting.at):
            return replace(found, decision=rest)
        pace_wad = prudence.pace.of(alarm.first, _health_wad(fast), sitting.at.timestamp_s)
        means = replace(sitting.means, pace_wad=mul_div_up(pace_wad, sitting.posture.pace_wad, WAD))
        case = _case(alarm.case_id, account, replace(sitting, means=means))
        if self.params.plan.flash is not None:
            steps = plan.plan_flash(case, self.params.plan, self.params.plan.flash)
            return replace(found, decision=steps, agreed=verdict)
        planned = plan.plan_takeover(case, self.params.plan)
        if isinstance(planned, Refuse):
            return replace(found, decision=planned)
        record = after(sitting.means.record, planned.step)
        means = replace(sitting.means, taker=planned.taker, record=record)
        return replace(found, decision=(planned.step,), agreed=verdict, left=replace(sitting, means=means))


def _pair(margin: Margin | Unknown) -> tuple[int, int] | None:
    return None if isinstance(margin, Unknown) else (margin.value_wad, margin.required_wad)


def _case(case_id: str, account: Any, sitting: Sitting) -> Case:
    return Case(case_id, account, sitting.market, sitting.world, sitting.means, sitting.at)


def _health_at(sitting: Sitting, account: Any, prices: Mapping[FeedId, Wad]) -> Wad | None:
    """Return worth over requirement with some indices at other prices; None where it is in no danger."""
    said = {feed: Quote(feed, price_wad, sitting.at.timestamp_s) for feed, price_wad in prices.items()}
    margin = sitting.market.stand(account, sitting.market.fast(sitting.world, said))
    return None if isinstance(margin, Unknown) else _health_wad(margin)


def _health_wad(margin: Margin) -> Wad | None:
    return margin.value_wad * WAD // margin.required_wad if margin.required_wad > 0 else None


def _told(margin: Margin) -> str:
    return f"{margin.value_wad / WAD:.2f} of {margin.required_wad / WAD:.2f}"
