"""The rules of lending protocols: closed when both clocks agree, in sizes and by routes that were tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from keeper.columns.snapshot import Snapshot
from keeper.confirm.policy import Policies
from keeper.confirm.weigh import Evidence, timed_out, weigh
from keeper.desk import clocks
from keeper.desk.booking import booking, transfers
from keeper.desk.order import ordered
from keeper.desk.port import Alarm, Judgement, MarginCall, Tried, expect_depths
from keeper.domain import (
    Agree,
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
    Verdict,
    Wait,
    Witnesses,
)
from keeper.errors import ChainFault, ConfigError
from keeper.lending import flash, tokens
from keeper.lending.feeds import QUOTE
from keeper.lending.words import Repay, Standing
from keeper.plan import conversion
from keeper.plan import lending as plan
from keeper.plan.economics import after
from keeper.plan.lending import Means, Purse
from keeper.ports import LendingMarket
from keeper.risk.marks import Marks
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad, Wei, mul_div_up


@dataclass(frozen=True, slots=True)
class Params:
    """By which feed gas is valued, and the parameters of both stages."""

    native_feed: FeedId
    confirm: Policies = field(default_factory=Policies)
    plan: plan.Params = field(default_factory=plan.Params)


@dataclass(frozen=True, slots=True)
class Sitting:
    """One head: the market, its book, its world at both prices, and what the wallet has left."""

    market: LendingMarket[Any, Any]
    book: Book[Any]
    chain: Any
    fast: Any
    quotes: Mapping[FeedId, Quote | Unknown]
    means: Means
    at: ChainTime
    posture: Posture
    witnesses: Witnesses


@dataclass(frozen=True, slots=True)
class LendingDesk:
    """Implements ``desk.port.Desk`` for protocols that lend: acts for a wallet, or through flash loans."""

    wallet: str
    """Its address in lower case."""
    params: Params
    roads: plan.Roads

    @property
    def account(self) -> AccountKey:
        """What the wallet's own tokens are journaled under."""
        return bytes.fromhex(self.wallet[2:]) + bytes(12)

    @property
    def own(self) -> Sequence[AccountKey]:
        """None: it acts with tokens."""
        return ()

    def expect(self, market: LendingMarket[Any, Any], served: Collection[FeedId]) -> None:
        """Raise ConfigError where gas cannot be valued; of other feeds the chain's price is good enough."""
        convert = self.params.plan.convert
        if convert is not None and convert.into not in market.tokens:
            raise ConfigError(f"closing.into {convert.into} is no token of the deployment")
        expect_depths((*market.feeds, *market.tokens), self.params.plan.prudence.depth)
        native = self.params.native_feed
        if native not in served:
            raise ConfigError(f"the price source has no entry for {native}, which values gas")

    def calls(self, market: LendingMarket[Any, Any]) -> list[Call]:
        """Ask for the wallet's balances, and for what it allows whom."""
        return [tokens.purse_call(self.wallet, conversion.pockets(market, self.params.plan))]

    def decode(self, market: LendingMarket[Any, Any], answers: Sequence[bytes]) -> Purse:
        """Read them."""
        [answer] = answers
        asked, found = conversion.pockets(market, self.params.plan), tokens.purse(answer)
        if len(found) != len(asked):
            raise ChainFault(f"expected {len(asked)} balances, found {len(found)}")
        return Purse(
            {token: balance for (token, _), (balance, _) in zip(asked, found, strict=True)},
            {pocket: allowed for pocket, (_, allowed) in zip(asked, found, strict=True)},
        )

    def lacking(self, book: Book[Any], funds: Purse) -> list[str]:
        """Name the tokens to repay with, where the wallet pays and has none at all."""
        del book
        is_empty = self.params.plan.flash is None and not any(funds.balances.values())
        return ["tokens to repay debts with"] if is_empty else []

    def sit(
        self,
        market: LendingMarket[Any, Any],
        book: Book[Any],
        world: Any,
        funds: Purse,
        *,
        quotes: Mapping[FeedId, Quote | Unknown],
        gas_price_wei: Wei,
        at: ChainTime,
        posture: Posture,
        witnesses: Witnesses,
        record: Record,
    ) -> Sitting:
        """Put together what decisions rest on; without a price of gas there are none."""
        native_price_wad = self.native_price_wad(market, world, quotes)
        if isinstance(native_price_wad, Unknown):
            what, why = native_price_wad.what, native_price_wad.why
            raise ChainFault(f"{what} has no price, so that gas cannot be valued: {why}")
        quotes = {**quotes, QUOTE: Quote(QUOTE, WAD, at.timestamp_s)}
        chain = market.carried(world, at)
        means = Means(funds, gas_price_wei, native_price_wad, record)
        fast = market.fast(chain, quotes)
        return Sitting(market, book, chain, fast, quotes, means, at, posture, witnesses)

    def carry(self, left: Sitting, sitting: Sitting) -> Sitting:
        """Take over the purse as the steps so far leave it."""
        means = replace(
            sitting.means, purse=left.means.purse, record=left.means.record, coming_wad=left.means.coming_wad
        )
        return replace(sitting, means=means)

    def under_care(
        self,
        sitting: Sitting,
        snapshot: Snapshot,
        suspects: Mapping[AccountKey, str],
        cases: Mapping[AccountKey, ChainTime],
    ) -> Sequence[AccountKey]:
        """List the suspects and the accounts that were, by urgency, then what the wallet may sell."""
        mine = [self.account] if self.params.plan.convert else []
        others = ordered(
            (key for key in (*suspects, *cases) if key != self.account),
            cases,
            book=sitting.book,
            snapshot=snapshot,
            marks=sitting.market.marks(sitting.fast, {}, sitting.at.timestamp_s),
            at=sitting.at,
            old_blocks=self.params.plan.prudence.old_blocks,
        )
        return [*others, *mine]

    def judge(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> Judgement[Sitting] | Unknown:
        """Judge one account at both prices by the contract's own integers, and plan its closing."""
        if account == self.account:
            return self._convert(sitting, alarm.case_id)
        loan = sitting.book.exact(account)
        if isinstance(loan, Unknown):
            return loan
        chain, fast = (sitting.market.stand(loan, world) for world in (sitting.chain, sitting.fast))
        if isinstance(chain, Unknown):
            return chain
        if isinstance(fast, Unknown):
            return fast
        verdict = self._verdict(sitting, loan, chain, fast, alarm)
        found = Judgement(
            phase="breached" if chain.is_breached else "warned" if fast.is_breached else "healthy",
            health=None if chain.health_wad is None else chain.health_wad / WAD,
            cared=verdict is not None,
            state=str(loan),
            decision=None if isinstance(verdict, Agree) else verdict,
            agreed=verdict if isinstance(verdict, Agree) else None,
            left=sitting,
            markets=_markets(sitting, loan),
            solvent=chain.collateral_wad >= chain.debt_wad,
            shown=chain.is_breached,
        )
        if found.agreed is None:
            # However long the protocol refuses, or nobody else can be asked: that was no false alarm.
            is_held = chain.unmet is not None or bool(sitting.market.unseen(loan, sitting.chain))
            return found if chain.is_breached and is_held else self._given_up(found, alarm) or found
        prudence, at = self.params.plan.prudence, sitting.at
        if rest := prudence.rest.wait(alarm.closed, chain.health_wad, at):
            return replace(found, decision=rest, agreed=None)
        case = _case(alarm.case_id, account, loan, chain, sitting)
        pace_wad = prudence.pace.of(alarm.first, chain.health_wad, at.timestamp_s)
        means = replace(sitting.means, pace_wad=mul_div_up(pace_wad, sitting.posture.pace_wad, WAD))
        decision = plan.plan_close(case, means, self.roads, self.params.plan)
        return replace(found, decision=decision, left=_after(sitting, case, decision))

    @staticmethod
    def marks(
        market: LendingMarket[Any, Any],
        world: Any,
        quotes: Mapping[FeedId, Quote | Unknown],
        at_s: UnixS,
    ) -> Marks:
        """Mark them as if the chain said what the fast prices say."""
        return market.marks(market.fast(world, quotes), {}, at_s)

    def call(self, sitting: Sitting, account: AccountKey, buffer_wad: Wad) -> MarginCall | None:
        """Say what would bring an account's health up to a buffer, at the worse of both clocks."""
        worlds = sitting.chain, sitting.fast
        return clocks.called(sitting.market, sitting.book.exact(account), worlds, _pair, buffer_wad)

    def divergence(
        self, market: LendingMarket[Any, Any], world: Any, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> float | None:
        """Hold what the fast prices would have the chain say against what it says."""
        return clocks.divergence(market, world, quotes)

    def is_own(self, account: AccountKey) -> bool:
        """Tell whether it is the account of what the wallet has: loans of its own included."""
        return account == self.account

    def ready(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> tuple[Step, ...]:
        """Return the closings of an account in breach at the oracle's price that waits for the fast one.

        Where the oracle shows no breach the contract refuses all, whatever the fast price does.
        """
        loan = sitting.book.exact(account)
        if isinstance(loan, Unknown) or self.is_own(account):
            return ()
        chain = sitting.market.stand(loan, sitting.chain)
        if isinstance(chain, Unknown) or not chain.is_breached:
            return ()
        if not isinstance(self._verdict(sitting, loan, chain, chain, alarm), Agree):
            return ()
        case = _case(alarm.case_id, account, loan, chain, sitting)
        decision = plan.plan_close(case, sitting.means, self.roads, self.params.plan)
        return () if isinstance(decision, Refuse) else decision

    def booked(self, market: LendingMarket[Any, Any], world: Any, logs: Sequence[Log]) -> Booking:
        """Say what one of the wallet's transactions moved, and what that is worth."""
        flash_ = self.params.plan.flash
        held = {self.wallet, flash_.liquidator} if flash_ else {self.wallet}
        return booking(transfers(logs, held), partial(market.worth_wad, world=world))

    def parted(
        self, market: LendingMarket[Any, Any], book: Book[Any], funds: Purse, held: Sequence[FeedId]
    ) -> Sequence[FeedId]:
        """Return the tokens that the wallet is known to have none of."""
        del market, book
        return [token for token in held if funds.balances.get(token) == 0]

    def native_price_wad(
        self, market: LendingMarket[Any, Any], world: Any, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> Wad | Unknown:
        """Return the fast price: the protocol need not list the native currency."""
        del market, world
        feed = self.params.native_feed
        quote = quotes.get(feed, Unknown(feed, "the price source does not serve it"))
        return quote.price_wad if isinstance(quote, Quote) else replace(quote, what=feed)

    def vouches(self, tried: Tried, step: Step) -> bool:
        """Tell whether the same closing went through, bar the least profit, which was left."""
        return (
            isinstance(tried.result, bytes)
            and step.gas_limit == tried.step.gas_limit
            and flash.goes_through_as(tried.step.act, tried.result, step.act)
        )

    def _convert(self, sitting: Sitting, case_id: str) -> Judgement[Sitting]:
        """Plan to sell what the wallet seized; for loans of its own the keeper does nothing."""
        nothing = Standing(None, 0, 0, None)
        case = _case(case_id, self.account, None, nothing, sitting)
        decision = conversion.plan_conversion(case, sitting.means, self.roads, self.params.plan)
        return Judgement(
            phase="converting" if decision else "converted",
            health=None,
            cared=decision is not None,
            state=str(sitting.means.purse),
            decision=decision,
            agreed=None,
            left=sitting,
        )

    def _given_up(self, found: Judgement[Sitting], alarm: Alarm) -> Judgement[Sitting] | None:
        """End an alarm that got no agreement in time."""
        if not found.cared or alarm.agreed:
            return None
        policy = self.params.confirm.of(found.markets, found.left.posture)
        false_alarm = timed_out(policy, alarm.since, found.left.at)
        return replace(found, cared=False, decision=false_alarm) if false_alarm else None

    def _verdict(
        self, sitting: Sitting, loan: Any, chain: Standing, fast: Standing, alarm: Alarm
    ) -> Verdict | None:
        """Ask both clocks, and what the protocol has against it; None where neither clock shows a breach."""
        if not (chain.is_breached or fast.is_breached):
            return None
        if chain.is_breached and chain.unmet is not None:
            return Wait(sitting.at.block + 1, chain.unmet)
        evidence = Evidence(
            account=loan.key,
            found=f"health {_of(chain)} at the oracle's price, {_of(fast)} at the fast one",
            chain=chain.is_breached,
            fast=fast.is_breached,
            sights=sitting.market.sights(loan, sitting.chain, sitting.quotes),
            health_at=partial(_health_at, sitting, loan),
            unseen=sitting.market.unseen(loan, sitting.chain),
            witnesses=sitting.witnesses,
            tripped=sitting.posture.tripped,
            shown=alarm.shown,
        )
        policies = self.params.confirm
        policy = policies.of(_markets(sitting, loan), sitting.posture)
        return weigh(policy, alarm.since, evidence, sitting.at, policies.block_time_s)

    def pick(self, sitting: Sitting, tried: Sequence[Tried]) -> Tried:
        """Choose by the profit that each step brought; where none went through, tell why not the first."""
        went = [
            replace(each, step=self._brought(each.step, each.result, sitting))
            for each in tried
            if isinstance(each.result, bytes)
        ]
        if not went:
            return tried[0]
        step = plan.chosen([each.step for each in went], self.params.plan)
        if isinstance(step, Refuse):
            return replace(went[0], result=step)
        return next(each for each in went if each.step is step)

    @staticmethod
    def _brought(step: Step, result: bytes, sitting: Sitting) -> Step:
        """Return a step with the profit that it brought in its simulation, where only that tells it."""
        act = step.act
        if not isinstance(act, Repay) or act.flash is None:
            return step
        market, worlds = sitting.market, (sitting.chain, sitting.fast)
        profit = flash.profit(result)
        return plan.with_profit(step, act.way, act.flash.route, profit, market, worlds, sitting.means)


def _pair(standing: Standing | Unknown) -> tuple[int, int] | None:
    """Return what a loan has and needs, of a straight line each; None where that is not known."""
    if isinstance(standing, Unknown):
        return None
    if standing.health_wad is None:
        return 1, 0
    debt_wad = max(1, standing.debt_wad)
    return standing.health_wad * debt_wad, WAD * debt_wad


def _case(case_id: str, account: AccountKey, loan: Any, standing: Standing, sitting: Sitting) -> plan.Case:
    at = sitting.at
    return plan.Case(case_id, account, loan, standing, sitting.market, sitting.chain, sitting.fast, at)


def _health_at(sitting: Sitting, loan: Any, prices: Mapping[FeedId, Wad]) -> Wad | None:
    """Return the health of an account with some feeds at other prices; None where it is not in danger."""
    said = {feed: Quote(feed, price_wad, sitting.at.timestamp_s) for feed, price_wad in prices.items()}
    standing = sitting.market.stand(loan, sitting.market.fast(sitting.chain, said))
    return None if isinstance(standing, Unknown) else standing.health_wad


def _markets(sitting: Sitting, loan: Any) -> tuple[str, ...]:
    """Return the feeds that an account hangs on, and its market, where the protocol has several."""
    sights = sitting.market.sights(loan, sitting.chain, sitting.quotes)
    feeds = (each.feed for each in sights if each.feed != QUOTE)
    own = sitting.market.market_of(loan)
    return tuple(dict.fromkeys((*feeds, *([own] if own else []))))


def _of(standing: Standing) -> str:
    return "endless" if standing.health_wad is None else f"{standing.health_wad / WAD:.6f}"


def _after(sitting: Sitting, case: plan.Case, decision: tuple[Step, ...] | Refuse) -> Sitting:
    """Return what other steps of the same block find: this one may spend the largest of its sizes."""
    if isinstance(decision, Refuse):
        return sitting
    purse = plan.left(sitting.means.purse, decision, case.market.sweep(case.loan, case.chain))
    largest = max(decision, key=lambda step: sum(wad for _, wad in step.takes))
    coming = dict(sitting.means.coming_wad)
    for token, wad in largest.takes:
        coming[token] = coming.get(token, 0) + wad
    record = after(sitting.means.record, largest)
    return replace(sitting, means=replace(sitting.means, purse=purse, record=record, coming_wad=coming))
