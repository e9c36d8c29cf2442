"""HybridMargin's rules in their order: alarm, confirmation, slices along the slope, and what ends each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from keeper.columns.snapshot import Snapshot
from keeper.confirm import hybrid as confirm
from keeper.confirm.policy import Policies
from keeper.confirm.weigh import Evidence, timed_out, weigh
from keeper.desk.booking import booking
from keeper.desk.order import ordered
from keeper.desk.port import Alarm, Judgement, MarginCall, Tried, expect_all, expect_depths
from keeper.domain import (
    Account,
    Act,
    Agree,
    Assessment,
    Booking,
    Bundle,
    BuyCollateral,
    Call,
    ChainTime,
    Confirm,
    Flag,
    Liquidate,
    Log,
    OracleView,
    Phase,
    PostingAct,
    Posture,
    Quote,
    Reason,
    Record,
    Refuse,
    Step,
    Unknown,
    Valuation,
    Verdict,
    Wait,
    Witnesses,
)
from keeper.errors import ChainFault
from keeper.plan import hybrid as plan
from keeper.plan.economics import after
from keeper.plan.hybrid import Means, Slice
from keeper.ports import Reports, SlopeMarket
from keeper.remedies import ratio, remedies
from keeper.risk.marks import Marks
from keeper.state.book import Book
from keeper.units import BPS, WAD, AccountKey, FeedId, UnixS, Wad, Wei, mul_div_up

IN_EPISODE = (Phase.FLAGGED, Phase.CONFIRMED)
SETTLEMENTS = 16
"""Accounts whose options are settled at the same time: an expiry concerns many, and liquidations go first."""


@dataclass(frozen=True, slots=True)
class Params:
    """By which feed gas is valued, and the parameters of both stages."""

    native_feed: FeedId
    confirm: Policies = field(default_factory=Policies)
    plan: plan.Params = field(default_factory=plan.Params)
    deviation_bps: int = 10
    """How far a signed price must be from a fresh one on chain to be posted with an act."""


@dataclass(frozen=True, slots=True)
class Sitting:
    """One head: market and book, the chain's view, and the keeper's means as the steps so far leave them."""

    market: SlopeMarket
    book: Book[Account]
    oracles: OracleView
    means: Means
    at: ChainTime
    bundles: Mapping[FeedId, Bundle]
    """What reporters have signed, as far as an act in block ``at`` could post it."""
    signed: OracleView
    """The chain's view of prices once all of that was posted."""
    posture: Posture
    witnesses: Witnesses


@dataclass(frozen=True, slots=True)
class HybridDesk:
    """Implements ``desk.port.Desk``: acts for a wallet, and takes positions over into one of its accounts."""

    wallet: str
    """Its address in lower case."""
    taker: AccountKey
    params: Params
    reports: Reports | None = None
    """Without it an act finds the fast prices that others have posted."""

    @property
    def own(self) -> Sequence[AccountKey]:
        """The account that takes positions over."""
        return (self.taker,)

    def expect(self, market: SlopeMarket, served: Collection[FeedId]) -> None:
        """Raise ConfigError where one of its feeds has no price, or gas is valued by none of them."""
        expect_all(market.feeds, self.params.native_feed, served)
        expect_depths(market.feeds, self.params.plan.prudence.depth)

    def calls(self, market: SlopeMarket) -> list[Call]:
        """Ask for the wallet's credit for bonds."""
        return [market.credit_call(self.wallet)]

    def decode(self, market: SlopeMarket, answers: Sequence[bytes]) -> Wad:
        """Read the credit."""
        del market
        [credit] = answers
        if len(credit) != 32:
            raise ChainFault(f"expected one word, found {len(credit)} bytes")
        return int.from_bytes(credit)

    def lacking(self, book: Book[Account], funds: Wad) -> list[str]:
        """Name what the keeper has nothing of."""
        taker = book.exact(self.taker)
        is_funded = not isinstance(taker, Unknown) and (taker.cash_wad > 0 or taker.holdings)
        found = {"credit in the vault for bonds": funds == 0, "a funded margin account": not is_funded}
        return [what for what, is_lacking in found.items() if is_lacking]

    def sit(
        self,
        market: SlopeMarket,
        book: Book[Account],
        world: OracleView,
        funds: Wad,
        *,
        quotes: Mapping[FeedId, Quote | Unknown],
        gas_price_wei: Wei,
        at: ChainTime,
        posture: Posture,
        witnesses: Witnesses,
        record: Record,
    ) -> Sitting:
        """Put together what decisions rest on; without its own account or a price of gas there are none.

        The contract knows both prices of every feed; those off chain suspect, and decide nothing.
        """
        taker, native_price_wad = book.exact(self.taker), self.native_price_wad(market, world, quotes)
        if isinstance(taker, Unknown):
            raise ChainFault(f"the keeper's own account cannot be read: {taker.why}")
        if isinstance(native_price_wad, Unknown):
            raise ChainFault(f"{native_price_wad.what} {native_price_wad.why}, so that gas cannot be valued")
        bundles = self.reports.bundles(world, at) if self.reports else {}
        signed = market.posted(world, bundles, at) if bundles else world
        held_wad = self._held(market, taker, world, at)
        means = Means(taker, funds, gas_price_wei, native_price_wad, record=record, held_wad=held_wad)
        return Sitting(market, book, world, means, at, bundles, signed, posture, witnesses)

    def _held(
        self, market: SlopeMarket, taker: Account, world: OracleView, at: ChainTime
    ) -> Mapping[FeedId, Wad]:
        """Return what its account's positions come to, where a depth bounds or values them."""
        return market.exposures(taker, world, at) if self.params.plan.prudence.depth else {}

    def carry(self, left: Sitting, sitting: Sitting) -> Sitting:
        """Take over the account and the credit as the steps so far leave them."""
        means = replace(
            sitting.means,
            taker=left.means.taker,
            credit_wad=left.means.credit_wad,
            record=left.means.record,
            held_wad=left.means.held_wad,
        )
        return replace(sitting, means=means)

    def under_care(
        self,
        sitting: Sitting,
        snapshot: Snapshot,
        suspects: Mapping[AccountKey, str],
        cases: Mapping[AccountKey, ChainTime],
    ) -> Sequence[AccountKey]:
        """List suspects, and whoever else is in an episode, owes only, or has an open case, by urgency.

        And, where the keeper does upkeep, some of those who hold an option that can be settled, the keeper
        itself first: that is all that it does for accounts of its own.
        """
        owes_only = snapshot.cash < 0
        owes_only[sitting.book.holding(range(sitting.market.market_count))] = False
        phases = [*Phase]
        in_episode = np.isin(snapshot.cells["phases"], [phases.index(phase) for phase in IN_EPISODE])
        rows = np.flatnonzero(in_episode | owes_only)
        settled = [*sitting.oracles.settlements] if self.params.plan.upkeep else []
        holders = sorted(sitting.book.holders(settled), key=lambda key: not self.is_own(key))
        episodes = [snapshot.key(int(row)) for row in rows]
        others = [key for key in (*suspects, *episodes) if not self.is_own(key)]
        posted = {
            feed: Quote(feed, view.fast_wad, view.fast_observed_at_s)
            for feed, view in sitting.oracles.items()
            if view.fast_wad > 0
        }
        urgent = ordered(
            (*others, *cases),
            cases,
            book=sitting.book,
            snapshot=snapshot,
            marks=sitting.market.marks(sitting.oracles, posted, sitting.at.timestamp_s),
            at=sitting.at,
            old_blocks=self.params.plan.prudence.old_blocks,
        )
        return list(dict.fromkeys((*urgent, *holders[:SETTLEMENTS])))

    def judge(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> Judgement[Sitting] | Unknown:
        """Judge one account by the contract's own integers, and plan what is due.

        At the prices that the act posts, where it posts some. What takes no reports finds those of the chain,
        and is done only where they lead to no other act: what is known to be out of date is not acted on.
        """
        exact = sitting.book.exact(account)
        if isinstance(exact, Unknown):
            return exact
        assessed = sitting.market.assess(exact, sitting.oracles, sitting.at)
        if isinstance(assessed, Unknown):
            return assessed
        found = self._judge(sitting, assessed, alarm)
        reports = self._reports_for(assessed, sitting)
        if not reports:
            return found
        posted = self._judge_posted(sitting, exact, reports, alarm)
        if posted is not None:
            return posted
        if not _posts(found):
            return found
        wait = Wait(sitting.at.block + 1, Reason("reports.otherwise", "prices on chain are behind", "posted"))
        return replace(found, decision=wait, agreed=None, left=sitting)

    def _judge_posted(
        self,
        sitting: Sitting,
        exact: Account,
        reports: Mapping[FeedId, Bundle],
        alarm: Alarm,
    ) -> Judgement[Sitting] | Unknown | None:
        """Judge an account as if reports were posted, and have its act post them; None where it cannot."""
        ahead = replace(
            sitting,
            oracles=sitting.market.posted(sitting.oracles, reports, sitting.at),
            means=replace(sitting.means, gas_posting=self._posting_gas(reports)),
        )
        assessed = sitting.market.assess(exact, ahead.oracles, sitting.at)
        if isinstance(assessed, Unknown):
            return assessed
        found = self._judge(ahead, assessed, alarm)
        # Whoever is next brings the prices along as well: this step may not be sent in the end.
        left = replace(
            found.left,
            oracles=replace(found.left.oracles, feeds=sitting.oracles.feeds),
            means=replace(found.left.means, gas_posting=0),
        )
        if not isinstance(found.decision, tuple):
            return replace(found, left=left)
        [step] = found.decision
        if not isinstance(step.act, PostingAct):
            return None
        act = replace(step.act, reports=tuple(reports.values()))
        return replace(found, decision=(replace(step, act=act),), left=left)

    def _posting_gas(self, reports: Mapping[FeedId, Bundle]) -> int:
        return sum(self.params.plan.gas_bundle.typical(len(bundle)) for bundle in reports.values())

    def _reports_for(self, case: Assessment, sitting: Sitting) -> Mapping[FeedId, Bundle]:
        """Return the bundles that change a price which an act on an account rests on."""
        taker = sitting.means.taker if case.account.phase is Phase.CONFIRMED else None
        feeds = (*case.feeds, *(sitting.market.feeds_of(taker) if taker else ()))
        since_s = case.account.flag.flagged_at_s if case.account.phase is Phase.FLAGGED else None
        return {
            feed: sitting.bundles[feed]
            for feed in dict.fromkeys(feeds)
            if feed in sitting.bundles and self._matters(feed, sitting, since_s)
        }

    def _matters(self, feed: FeedId, sitting: Sitting, flagged_at_s: UnixS | None) -> bool:
        """Tell whether the price on chain is stale, has moved, or is no evidence about an alarm yet."""
        now, then = sitting.oracles[feed], sitting.signed[feed]
        if not now.fast_fresh(sitting.at.timestamp_s):
            return True
        if flagged_at_s is not None and now.fast_observed_at_s <= flagged_at_s + now.min_delay_s // 2:
            return True
        return abs(then.fast_wad - now.fast_wad) * BPS >= self.params.deviation_bps * now.fast_wad

    def _judge(self, sitting: Sitting, assessed: Assessment, alarm: Alarm) -> Judgement[Sitting]:
        """Judge an account at the prices of a sitting."""
        exact = assessed.account
        found = Judgement(
            phase=exact.phase,
            health=assessed.health,
            cared=self._is_cared_for(assessed, alarm),
            state=f"{exact.phase}:{exact.flag.flagged_at_s}:{exact.flag.tranche_nonce}",
            decision=None,
            agreed=None,
            left=sitting,
            markets=assessed.feeds,
            solvent=_is_solvent(assessed.fast),
        )
        return self._decide(found, assessed, alarm) if found.cared else found

    @staticmethod
    def marks(
        market: SlopeMarket, world: OracleView, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS
    ) -> Marks:
        """Mark them as the market does: its prices on chain suspect nobody."""
        return market.marks(world, quotes, at_s)

    def call(self, sitting: Sitting, account: AccountKey, buffer_wad: Wad) -> MarginCall | None:
        """Say what would bring an account's health up to a buffer, at the fast prices of the chain."""
        market, oracles, at = sitting.market, sitting.oracles, sitting.at
        exact = sitting.book.exact(account)
        if isinstance(exact, Unknown) or isinstance(mends := market.mends(exact, oracles, at), Unknown):
            return None
        health = market.measured(exact, oracles, at)
        found = remedies(exact, mends, health, buffer_wad)
        return None if found is None else MarginCall(ratio(health(exact)), buffer_wad, found)

    def divergence(
        self, market: SlopeMarket, world: OracleView, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> float | None:
        """Hold the fast prices off chain against the slow oracle."""
        del market
        apart = [
            abs(quote.price_wad / view.slow_wad - 1)
            for feed, view in world.items()
            if isinstance(quote := quotes.get(feed), Quote) and view.slow_ok and view.slow_wad > 0
        ]
        return max(apart, default=None)

    def is_own(self, account: AccountKey) -> bool:
        """Tell whether an account is one of the wallet's."""
        return account[:20] == bytes.fromhex(self.wallet[2:])

    def ready(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> tuple[Step, ...]:
        """Return the flag that a breach would call for; of all else the clocks on chain decide, at heads.

        With all that reporters have signed of its feeds: a tick will bring newer reports of some.
        """
        exact = sitting.book.exact(account)
        if isinstance(exact, Unknown) or exact.phase is not Phase.HEALTHY or self.is_own(account):
            return ()
        assessed = sitting.market.assess(exact, sitting.oracles, sitting.at)
        if isinstance(assessed, Unknown):
            return ()
        reports = {feed: sitting.bundles[feed] for feed in assessed.feeds if feed in sitting.bundles}
        means = replace(sitting.means, gas_posting=self._posting_gas(reports))
        flag = plan.prepare_alarm(alarm.case_id, assessed, means, self.params.plan)
        if not (isinstance(flag, Step) and isinstance(flag.act, PostingAct)):
            return ()
        return (replace(flag, act=replace(flag.act, reports=tuple(reports.values()))),)

    def booked(self, market: SlopeMarket, world: OracleView, logs: Sequence[Log]) -> Booking:
        """Say what one of the wallet's transactions moved, and what that is worth."""
        found = booking(market.gained(logs, {self.wallet}), partial(market.worth_wad, world=world))
        return replace(found, sliced_wad=market.sliced_wad(logs, {self.wallet}))

    def parted(
        self, market: SlopeMarket, book: Book[Account], funds: Wad, held: Sequence[FeedId]
    ) -> Sequence[FeedId]:
        """Return the feeds that its margin account has nothing of, neither position nor collateral."""
        del funds
        taker = book.exact(self.taker)
        kept = held if isinstance(taker, Unknown) else market.feeds_of(taker)
        return [feed for feed in held if feed not in kept]

    def native_price_wad(
        self, market: SlopeMarket, world: OracleView, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> Wad | Unknown:
        """Return the fast price on chain, or the slow one where that has never been posted."""
        del market, quotes
        native = world[self.params.native_feed]
        price_wad = native.fast_wad or native.slow_wad
        return price_wad if price_wad > 0 else Unknown(native.feed, "has no price on chain")

    def vouches(self, tried: Tried, step: Step) -> bool:
        """Tell whether a flag was tried: its calldata names the account, and brings reports.

        Before the breach the contract refuses it with NotBreached, and asks that last: it has found the
        breaker, the phase, the cool-off and the prices in order. What follows is the bond, for which the plan
        of the step has seen the credit. Of a feed whose reports were tried newer ones go through as well:
        they were picked by the contract's own rules.
        """
        flag, due = tried.step.act, step.act
        if not (isinstance(flag, Flag) and isinstance(due, Flag) and flag.account == due.account):
            return False
        if not _feeds(due.reports) <= _feeds(flag.reports):
            return False
        return isinstance(tried.result, bytes) or (
            isinstance(tried.result, Refuse) and tried.result.reason.evidence.startswith("NotBreached(")
        )

    def pick(self, sitting: Sitting, tried: Sequence[Tried]) -> Tried:
        """Take the only step: what a slice brings is known to the wei before."""
        del sitting
        [only] = tried
        return only

    def _is_cared_for(self, assessed: Assessment, alarm: Alarm) -> bool:
        account = assessed.account
        to_settle = self.params.plan.upkeep and bool(assessed.settlable)
        cared = alarm.suspected or account.phase in IN_EPISODE or owes_only(account) or to_settle
        return cared and account.phase is not Phase.CLOSED

    def _decide(self, found: Judgement[Sitting], assessed: Assessment, alarm: Alarm) -> Judgement[Sitting]:
        """Add the decision to what was found, and take what it needs off what is left for others."""
        sitting = found.left
        verdict = self._verdict(assessed, sitting)
        decision = self._plan(assessed, verdict, sitting, alarm)
        if isinstance(decision, Slice):
            # The next slice of this block finds taker, buckets and insurance as this one leaves them.
            taker, oracles = decision.preview.taker_after, decision.preview.oracles_after
            means = replace(
                sitting.means,
                taker=taker,
                record=after(sitting.means.record, decision.step),
                held_wad=self._held(sitting.market, taker, sitting.oracles, sitting.at),
            )
            sitting = replace(sitting, means=means, oracles=oracles)
            decision = decision.step
        if not isinstance(decision, Step):
            return self._given_up(found, assessed, alarm) or replace(found, decision=decision)
        left_wad = sitting.means.credit_wad - _credit_taken_wad(decision.act)
        rests_on = verdict if isinstance(decision.act, Confirm | Liquidate | BuyCollateral) else None
        return replace(
            found,
            decision=(decision,),
            agreed=rests_on if isinstance(rests_on, Agree) else None,
            left=replace(sitting, means=replace(sitting.means, credit_wad=left_wad)),
        )

    def _verdict(self, assessed: Assessment, sitting: Sitting) -> Verdict | None:
        """Ask the contract's own conditions of an account that is in an episode, and then the policy."""
        phase, flag = assessed.account.phase, assessed.account.flag
        block_time_s = self.params.confirm.block_time_s
        if owes_only(assessed.account):
            return confirm.confirm_purchase(assessed)
        if phase is Phase.FLAGGED:
            floor = confirm.confirm_alarm(assessed, sitting.oracles, block_time_s)
        elif phase is Phase.CONFIRMED:
            floor = confirm.confirm_slice(assessed)
        else:
            return None
        if not isinstance(floor, Agree):
            return floor
        evidence = Evidence(
            account=assessed.account.key,
            found=floor.evidence,
            chain=True,
            fast=True,
            sights=confirm.sights(assessed, sitting.oracles),
            health_at=partial(_health_at, sitting, assessed),
            witnesses=sitting.witnesses,
            tripped=sitting.posture.tripped,
            waited=True,
        )
        policy = self.params.confirm.of(assessed.feeds, sitting.posture)
        since = ChainTime(flag.flagged_block, flag.flagged_at_s)
        return weigh(policy, since, evidence, assessed.at, block_time_s)

    def _given_up(
        self, found: Judgement[Sitting], assessed: Assessment, alarm: Alarm
    ) -> Judgement[Sitting] | None:
        """End a suspicion that led to no flag in time; of a flag the contract says when it has expired."""
        if assessed.account.phase is not Phase.HEALTHY or not alarm.suspected or alarm.agreed:
            return None
        policy = self.params.confirm.of(assessed.feeds, found.left.posture)
        false_alarm = timed_out(policy, alarm.since, assessed.at)
        return replace(found, cared=False, decision=false_alarm) if false_alarm else None

    def _plan(
        self, assessed: Assessment, verdict: Verdict | None, sitting: Sitting, alarm: Alarm
    ) -> Step | Slice | Wait | Refuse | None:
        """Plan for one account what is due; where that is no step, settle an option, which changes no margin.

        For accounts of its own the keeper does no more than that.
        """
        own = self.is_own(assessed.account.key)
        decision = None if own else self._due(assessed, verdict, sitting, alarm)
        if isinstance(decision, Step | Slice):
            return decision
        return plan.plan_settlement(alarm.case_id, assessed, sitting.means, self.params.plan) or decision

    def _due(
        self, assessed: Assessment, verdict: Verdict | None, sitting: Sitting, alarm: Alarm
    ) -> Step | Slice | Wait | Refuse | None:
        """Plan what the phase of an account and the verdict on it allow."""
        params, phase, case_id = self.params.plan, assessed.account.phase, alarm.case_id
        market, oracles, means = sitting.market, sitting.oracles, sitting.means
        false_alarm = phase is Phase.FLAGGED and confirm.contradicted(assessed, oracles)
        upkeep = plan.plan_upkeep(case_id, assessed, contradicted=false_alarm, means=means, params=params)
        if upkeep is not None:
            return upkeep
        if owes_only(assessed.account):
            return plan.plan_purchase(
                case_id, assessed, market=market, oracles=oracles, means=means, params=params
            )
        if phase is Phase.HEALTHY:
            if not alarm.suspected:
                return None
            return plan.plan_alarm(case_id, assessed, means, params, closed=alarm.closed)
        if not isinstance(verdict, Agree):
            return plan.plan_clock(case_id, assessed, means, params) or verdict
        if phase is Phase.FLAGGED:
            return plan.plan_confirm(case_id, assessed, verdict, means, params)
        pace_wad = params.prudence.pace.of(alarm.first, assessed.health_wad, sitting.at.timestamp_s)
        means = replace(means, pace_wad=mul_div_up(pace_wad, sitting.posture.pace_wad, WAD))
        return plan.plan_slice(
            case_id, assessed, verdict, market=market, oracles=oracles, means=means, params=params
        )


def _health_at(sitting: Sitting, case: Assessment, prices: Mapping[FeedId, Wad]) -> Wad | None:
    """Return E / M with some slow prices at others: less than 1 where the contract would see a breach."""
    said = {feed: replace(sitting.oracles[feed], slow_wad=price_wad) for feed, price_wad in prices.items()}
    feeds = {**sitting.oracles.feeds, **said}
    found = sitting.market.assess(case.account, replace(sitting.oracles, feeds=feeds), case.at)
    if isinstance(found, Unknown) or found.slow.requirement_wad <= 0:
        return None
    is_flagged = case.account.phase is Phase.FLAGGED
    level_wad = case.flag_level_wad if is_flagged else WAD * WAD // case.q_wad
    return found.slow.equity_wad * WAD * WAD // (found.slow.requirement_wad * level_wad)


def _feeds(reports: Sequence[Bundle]) -> set[FeedId]:
    return {report.observation.feed for bundle in reports for report in bundle}


def _posts(judged: Judgement[Sitting]) -> bool:
    """Tell whether what is decided is an act that could post prices."""
    return isinstance(judged.decision, tuple) and isinstance(judged.decision[0].act, PostingAct)


def _is_solvent(found: Valuation) -> bool:
    """Tell whether equity is left; an account that needs none has lost nothing by having none."""
    return found.equity_wad > 0 or found.equity_wad == found.requirement_wad == 0


def owes_only(account: Account) -> bool:
    """Tell whether an account has debt, and no position that could still change it."""
    return not account.legs and account.cash_wad < 0


def _credit_taken_wad(act: Act) -> Wad:
    """Return what an act takes of the keeper's credit: the steps of one block share it."""
    if isinstance(act, Flag):
        return act.bond_wad
    return act.max_quote_wad if isinstance(act, BuyCollateral) else 0
