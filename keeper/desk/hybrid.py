"""HybridMargin's rules in their order: alarm, confirmation, slices along the slope, and what ends each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from keeper.columns.snapshot import Snapshot
from keeper.confirm import hybrid as confirm
from keeper.desk.port import Judgement, Tried, expect_all
from keeper.domain import (
    Account,
    Act,
    Agree,
    Assessment,
    Bundle,
    BuyCollateral,
    Call,
    ChainTime,
    Confirm,
    Flag,
    Liquidate,
    OracleView,
    Phase,
    PostingAct,
    Quote,
    Reason,
    Refuse,
    Step,
    Unknown,
    Verdict,
    Wait,
)
from keeper.errors import ChainFault
from keeper.plan import hybrid as plan
from keeper.plan.hybrid import Means, Slice
from keeper.ports import Reports, SlopeMarket
from keeper.risk.marks import Marks
from keeper.state.book import Book
from keeper.units import BPS, AccountKey, FeedId, UnixS, Wad, Wei

IN_EPISODE = (Phase.FLAGGED, Phase.CONFIRMED)
SETTLEMENTS = 16
"""Accounts whose options are settled at the same time: an expiry concerns many, and liquidations go first."""


@dataclass(frozen=True, slots=True)
class Params:
    """By which feed gas is valued, and the parameters of both stages."""

    native_feed: FeedId
    confirm: confirm.Params = field(default_factory=confirm.Params)
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
    bundles: Mapping[FeedId, Bundle] = field(default_factory=dict)
    """What reporters have signed, as far as an act in block ``at`` could post it."""
    signed: OracleView = field(default_factory=OracleView)
    """The chain's view of prices once all of that was posted."""


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
    ) -> Sitting:
        """Put together what decisions rest on; without its own account or a price of gas there are none.

        The contract knows both prices of every feed; those off chain suspect, and decide nothing.
        """
        del quotes
        native, taker = world[self.params.native_feed], book.exact(self.taker)
        if isinstance(taker, Unknown):
            raise ChainFault(f"the keeper's own account cannot be read: {taker.why}")
        native_price_wad = native.fast_wad or native.slow_wad
        if native_price_wad <= 0:
            raise ChainFault(f"{native.feed} has no price on chain, so that gas cannot be valued")
        bundles = self.reports.bundles(world, at) if self.reports else {}
        signed = market.posted(world, bundles, at) if bundles else world
        means = Means(taker, funds, gas_price_wei, native_price_wad)
        return Sitting(market, book, world, means, at, bundles, signed)

    def carry(self, left: Sitting, sitting: Sitting) -> Sitting:
        """Take over the account and the credit as the steps so far leave them."""
        means = replace(sitting.means, taker=left.means.taker, credit_wad=left.means.credit_wad)
        return replace(sitting, means=means)

    def under_care(
        self,
        sitting: Sitting,
        snapshot: Snapshot,
        suspects: Mapping[AccountKey, str],
        cases: Iterable[AccountKey],
    ) -> Sequence[AccountKey]:
        """List suspects, worst first, then whoever else is in an episode, owes only, or has an open case.

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
        return list(dict.fromkeys((*others, *cases, *holders[:SETTLEMENTS])))

    def judge(
        self, sitting: Sitting, account: AccountKey, case_id: str, suspicion: str | None
    ) -> Judgement[Sitting] | Unknown:
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
        found = self._judge(sitting, assessed, case_id, suspicion)
        reports = self._reports_for(assessed, sitting)
        if not reports:
            return found
        posted = self._judge_posted(sitting, exact, reports, case_id, suspicion)
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
        case_id: str,
        suspicion: str | None,
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
        found = self._judge(ahead, assessed, case_id, suspicion)
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

    def _judge(
        self, sitting: Sitting, assessed: Assessment, case_id: str, suspicion: str | None
    ) -> Judgement[Sitting]:
        """Judge an account at the prices of a sitting."""
        exact = assessed.account
        found = Judgement(
            phase=exact.phase,
            health=assessed.health,
            cared=self._is_cared_for(assessed, suspicion),
            state=f"{exact.phase}:{exact.flag.flagged_at_s}:{exact.flag.tranche_nonce}",
            decision=None,
            agreed=None,
            left=sitting,
        )
        return self._decide(found, case_id, assessed, suspect=suspicion is not None) if found.cared else found

    def marks(
        self, market: SlopeMarket, world: OracleView, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS
    ) -> Marks:
        """Mark them as the market does: its prices on chain suspect nobody."""
        return market.marks(world, quotes, at_s)

    def is_own(self, account: AccountKey) -> bool:
        """Tell whether an account is one of the wallet's."""
        return account[:20] == bytes.fromhex(self.wallet[2:])

    def ready(self, sitting: Sitting, account: AccountKey) -> tuple[Step, ...]:
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
        flag = plan.prepare_alarm("ready", assessed, means, self.params.plan)
        if not (isinstance(flag, Step) and isinstance(flag.act, PostingAct)):
            return ()
        return (replace(flag, act=replace(flag.act, reports=tuple(reports.values()))),)

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

    def _is_cared_for(self, assessed: Assessment, suspicion: str | None) -> bool:
        account = assessed.account
        to_settle = self.params.plan.upkeep and bool(assessed.settlable)
        cared = suspicion is not None or account.phase in IN_EPISODE or owes_only(account) or to_settle
        return cared and account.phase is not Phase.CLOSED

    def _decide(
        self, found: Judgement[Sitting], case_id: str, assessed: Assessment, *, suspect: bool
    ) -> Judgement[Sitting]:
        """Add the decision to what was found, and take what it needs off what is left for others."""
        sitting = found.left
        verdict = self._verdict(assessed, sitting.oracles)
        decision = self._plan(case_id, assessed, verdict, sitting, suspect=suspect)
        if isinstance(decision, Slice):
            # The next slice of this block finds taker, buckets and insurance as this one leaves them.
            means = replace(sitting.means, taker=decision.preview.taker_after)
            sitting = replace(sitting, means=means, oracles=decision.preview.oracles_after)
            decision = decision.step
        if not isinstance(decision, Step):
            return replace(found, decision=decision)
        left_wad = sitting.means.credit_wad - _credit_taken_wad(decision.act)
        rests_on = verdict if isinstance(decision.act, Confirm | Liquidate) else None
        return replace(
            found,
            decision=(decision,),
            agreed=rests_on if isinstance(rests_on, Agree) else None,
            left=replace(sitting, means=replace(sitting.means, credit_wad=left_wad)),
        )

    def _verdict(self, assessed: Assessment, oracles: OracleView) -> Verdict | None:
        """Ask both clocks about an account that is in an episode."""
        if assessed.account.phase is Phase.FLAGGED:
            return confirm.confirm_alarm(assessed, oracles, self.params.confirm)
        return confirm.confirm_slice(assessed) if assessed.account.phase is Phase.CONFIRMED else None

    def _plan(
        self,
        case_id: str,
        assessed: Assessment,
        verdict: Verdict | None,
        sitting: Sitting,
        *,
        suspect: bool,
    ) -> Step | Slice | Wait | Refuse | None:
        """Plan for one account what is due; where that is no step, settle an option, which changes no margin.

        For accounts of its own the keeper does no more than that.
        """
        own = self.is_own(assessed.account.key)
        decision = None if own else self._due(case_id, assessed, verdict, sitting, suspect=suspect)
        if isinstance(decision, Step | Slice):
            return decision
        return plan.plan_settlement(case_id, assessed, sitting.means, self.params.plan) or decision

    def _due(
        self,
        case_id: str,
        assessed: Assessment,
        verdict: Verdict | None,
        sitting: Sitting,
        *,
        suspect: bool,
    ) -> Step | Slice | Wait | Refuse | None:
        """Plan what the phase of an account and the verdict on it allow."""
        params, phase = self.params.plan, assessed.account.phase
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
            return plan.plan_alarm(case_id, assessed, means, params) if suspect else None
        if not isinstance(verdict, Agree):
            return plan.plan_clock(case_id, assessed, means, params) or verdict
        if phase is Phase.FLAGGED:
            return plan.plan_confirm(case_id, assessed, verdict, means, params)
        return plan.plan_slice(
            case_id, assessed, verdict, market=market, oracles=oracles, means=means, params=params
        )


def _feeds(reports: Sequence[Bundle]) -> set[FeedId]:
    return {report.observation.feed for bundle in reports for report in bundle}


def _posts(judged: Judgement[Sitting]) -> bool:
    """Tell whether what is decided is an act that could post prices."""
    return isinstance(judged.decision, tuple) and isinstance(judged.decision[0].act, PostingAct)


def owes_only(account: Account) -> bool:
    """Tell whether an account has debt, and no position that could still change it."""
    return not account.legs and account.cash_wad < 0


def _credit_taken_wad(act: Act) -> Wad:
    """Return what an act takes of the keeper's credit: the steps of one block share it."""
    if isinstance(act, Flag):
        return act.bond_wad
    return act.max_quote_wad if isinstance(act, BuyCollateral) else 0
