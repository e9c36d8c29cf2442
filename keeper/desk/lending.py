"""The rules of lending protocols: closed when both clocks agree, in sizes and by routes that were tried."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keeper.columns.snapshot import Snapshot
from keeper.confirm import clocks
from keeper.desk.port import Judgement, Tried
from keeper.domain import Agree, Call, ChainTime, Quote, Refuse, Step, Unknown, Verdict, Wait
from keeper.errors import ChainFault, ConfigError
from keeper.lending import flash, tokens
from keeper.lending.words import Repay, Standing
from keeper.plan import conversion
from keeper.plan import lending as plan
from keeper.plan.lending import Means, Purse
from keeper.ports import LendingMarket
from keeper.risk.marks import Marks
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wei


@dataclass(frozen=True, slots=True)
class Params:
    """By which feed gas is valued, and the parameters of both stages."""

    native_feed: FeedId
    confirm: clocks.Params = field(default_factory=clocks.Params)
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
    ) -> Sitting:
        """Put together what decisions rest on; without a price of gas there are none."""
        native = quotes.get(self.params.native_feed)
        if not isinstance(native, Quote):
            why = native.why if native else "the price source does not serve it"
            raise ChainFault(f"{self.params.native_feed} has no price, so that gas cannot be valued: {why}")
        chain = market.carried(world, at)
        means = Means(funds, gas_price_wei, native.price_wad)
        return Sitting(market, book, chain, market.fast(chain, quotes), quotes, means, at)

    def carry(self, left: Sitting, sitting: Sitting) -> Sitting:
        """Take over the purse as the steps so far leave it."""
        means = replace(sitting.means, purse=left.means.purse)
        return replace(sitting, means=means)

    def under_care(
        self,
        sitting: Sitting,
        snapshot: Snapshot,
        suspects: Mapping[AccountKey, str],
        cases: Iterable[AccountKey],
    ) -> Sequence[AccountKey]:
        """List the suspects, worst first, then the accounts that were, then what the wallet may sell."""
        del sitting, snapshot
        mine = [self.account] if self.params.plan.convert else []
        others = [key for key in dict.fromkeys((*suspects, *cases)) if key != self.account]
        return [*others, *mine]

    def judge(
        self, sitting: Sitting, account: AccountKey, case_id: str, suspicion: str | None
    ) -> Judgement[Sitting] | Unknown:
        """Judge one account at both prices by the contract's own integers, and plan its closing."""
        del suspicion
        if account == self.account:
            return self._convert(sitting, case_id)
        loan = sitting.book.exact(account)
        if isinstance(loan, Unknown):
            return loan
        chain, fast = (sitting.market.stand(loan, world) for world in (sitting.chain, sitting.fast))
        if isinstance(chain, Unknown):
            return chain
        if isinstance(fast, Unknown):
            return fast
        verdict = self._verdict(sitting, loan, chain, fast)
        found = Judgement(
            phase="breached" if chain.is_breached else "warned" if fast.is_breached else "healthy",
            health=None if chain.health_wad is None else chain.health_wad / WAD,
            cared=verdict is not None,
            state=str(loan),
            decision=None if isinstance(verdict, Agree) else verdict,
            agreed=verdict if isinstance(verdict, Agree) else None,
            left=sitting,
        )
        if found.agreed is None:
            return found
        case = _case(case_id, account, loan, chain, sitting)
        decision = plan.plan_close(case, sitting.means, self.roads, self.params.plan)
        return replace(found, decision=decision, left=_after(sitting, case, decision))

    def marks(
        self,
        market: LendingMarket[Any, Any],
        world: Any,
        quotes: Mapping[FeedId, Quote | Unknown],
        at_s: UnixS,
    ) -> Marks:
        """Mark them as if the chain said what the fast prices say."""
        return market.marks(market.fast(world, quotes), {}, at_s)

    def is_own(self, account: AccountKey) -> bool:
        """Tell whether it is the account of what the wallet has: loans of its own included."""
        return account == self.account

    def ready(self, sitting: Sitting, account: AccountKey) -> tuple[Step, ...]:
        """Return the closings of an account in breach at the oracle's price that waits for the fast one.

        Where the oracle shows no breach the contract refuses all, whatever the fast price does.
        """
        loan = sitting.book.exact(account)
        if isinstance(loan, Unknown) or self.is_own(account):
            return ()
        chain = sitting.market.stand(loan, sitting.chain)
        if isinstance(chain, Unknown) or not chain.is_breached:
            return ()
        if not isinstance(self._verdict(sitting, loan, chain, chain), Agree):
            return ()
        case = _case("ready", account, loan, chain, sitting)
        decision = plan.plan_close(case, sitting.means, self.roads, self.params.plan)
        return () if isinstance(decision, Refuse) else decision

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

    def _verdict(self, sitting: Sitting, loan: Any, chain: Standing, fast: Standing) -> Verdict | None:
        """Ask both clocks, and what the protocol has against it; None where neither clock shows a breach."""
        if not (chain.is_breached or fast.is_breached):
            return None
        if chain.is_breached and chain.unmet is not None:
            return Wait(sitting.at.block + 1, chain.unmet)
        return clocks.confirm(
            chain=chain.is_breached,
            fast=fast.is_breached,
            found=f"health {_of(chain)} at the oracle's price, {_of(fast)} at the fast one",
            sights=sitting.market.sights(loan, sitting.chain, sitting.quotes),
            at=sitting.at,
            params=self.params.confirm,
        )

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


def _case(case_id: str, account: AccountKey, loan: Any, standing: Standing, sitting: Sitting) -> plan.Case:
    at = sitting.at
    return plan.Case(case_id, account, loan, standing, sitting.market, sitting.chain, sitting.fast, at)


def _of(standing: Standing) -> str:
    return "endless" if standing.health_wad is None else f"{standing.health_wad / WAD:.6f}"


def _after(sitting: Sitting, case: plan.Case, decision: tuple[Step, ...] | Refuse) -> Sitting:
    """Return what other steps of the same block find: this one may spend the largest of its sizes."""
    if isinstance(decision, Refuse):
        return sitting
    purse = plan.left(sitting.means.purse, decision, case.market.sweep(case.loan, case.chain))
    return replace(sitting, means=replace(sitting.means, purse=purse))
