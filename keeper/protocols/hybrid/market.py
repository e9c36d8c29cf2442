"""HybridMargin as the pipeline sees it: one deployment, judged by the contract's own integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keeper.domain import (
    Account,
    Act,
    Assessment,
    Call,
    ChainTime,
    Fact,
    FeedView,
    Instrument,
    Log,
    OracleView,
    Phase,
    Reason,
    Refuse,
    Unknown,
)
from keeper.ports import Purchase, SlicePreview
from keeper.protocols.hybrid import codec, liquidator, signing
from keeper.protocols.hybrid.params import Deployment
from keeper.protocols.hybrid.signing import Bundle, Observation
from keeper.units import WAD, AccountKey, FeedId, Wad


class HybridMarket:
    """Implements ``ports.Market`` for one deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._rules = deployment.rules

    @property
    def perps(self) -> tuple[Instrument, ...]:
        """The columns of the perps, market 1 first: their PnL counts in full, and mmr is required."""
        return tuple(Instrument(each.feed, WAD, each.mmr_wad) for each in self._rules.perps.values())

    @property
    def collaterals(self) -> tuple[Instrument, ...]:
        """The columns of the collaterals, number 1 first: they count with their haircut."""
        return tuple(Instrument(each.feed, each.h_mm_wad, 0) for each in self._rules.collaterals.values())

    def decode(self, log: Log) -> Fact | None:
        """Say what a log of this deployment means; None for one that concerns no account and no price."""
        return codec.decode(log, self.deployment)

    def encode(self, act: Act) -> Call:
        """Build the calldata of an act, without reports."""
        return codec.encode(act, self.deployment)

    def rows_call(self, keys: Sequence[AccountKey]) -> Call:
        """Ask for the exact state of many accounts; ``codec.decode_rows`` reads it."""
        return codec.rows_call(self.deployment.reader, keys)

    def prices_call(self) -> Call:
        """Ask for both prices of every feed."""
        return codec.prices_call(self.deployment.router, self._rules.feeds)

    def decode_prices(self, answer: bytes) -> Mapping[FeedId, FeedView]:
        """Read both prices of every feed."""
        max_age_s = self.deployment.fast_max_age_s
        return codec.decode_prices(self._rules.feeds, answer, fast_max_age_s=max_age_s)

    def credit_call(self, holder: str) -> Call:
        """Ask for a holder's quote credit, from which bonds are paid."""
        return codec.credit_call(self.deployment.vault, self.deployment.quote, holder)

    def insurance_call(self) -> Call:
        """Ask what the insurance holds, which pays the taker of an insolvent account: for ``preview``."""
        return codec.insurance_call(self.deployment.clearing)

    def sign_report(self, observation: Observation, key: bytes) -> bytes:
        """Sign one observation with one reporter's key."""
        domain = self.deployment
        return signing.sign_report(key, observation, fast_oracle=domain.fast_oracle, chain_id=domain.chain_id)

    def post_call(self, bundles: Sequence[Bundle]) -> Call:
        """Post those bundles that are newer than what the chain has."""
        return codec.post_newer_call(self.deployment.fast_oracle, bundles)

    def explain(self, refusal: Refuse) -> Refuse:
        """Put the contract's own words in the place of a refusal's revert data."""
        reason = refusal.reason
        if not reason.evidence.startswith("0x"):
            return refusal
        words = codec.revert_name(bytes.fromhex(reason.evidence[2:]))
        return Refuse(Reason(reason.rule, words, reason.bound))

    @property
    def flag_level_wad(self) -> Wad:
        """The health below which an account is flagged, 1 + beta_flag."""
        return WAD + self._rules.slope.beta_flag_wad

    def assess(self, account: Account, oracles: OracleView, at: ChainTime) -> Assessment | Unknown:
        """Judge one account as the contract would in block ``at``.

        What concerns the slope is foreseen as if the account were confirmed in that block, where it is not
        confirmed yet. Fee and closeable fraction are those after the sale of collateral and the fee cap that
        a slice begins with.
        """
        lacking = self._lacking(account, oracles)
        if lacking:
            return lacking
        slope = self._rules.slope
        look = liquidator.outlook(account, oracles, at, self._rules)
        feeds = liquidator.feeds_of(account, self._rules)
        return Assessment(
            account=account,
            at=at,
            fast=look.found.fast,
            slow=look.found.slow,
            execution=look.found.execution,
            feeds=feeds,
            fresh=look.fresh,
            flag_level_wad=self.flag_level_wad,
            tau_s=look.flag.tau_s,
            since_confirmation_s=look.since_confirmation_s,
            q_wad=look.q_wad,
            fee_wad=look.kappa_wad,
            closeable_wad=look.closeable_wad,
            step_room_wad=look.step_room_wad,
            fast_fresh=all(oracles[feed].fast_fresh(at.timestamp_s) for feed in feeds),
            earliest_alarm=liquidator.earliest_alarm(account),
            bond_wad=liquidator.bond_wad(look.found.fast),
            reward_wad=_reward(account, look),
            curable=_in_episode(account) and liquidator.is_curable(look.found, slope, fresh=look.fresh),
            expirable=account.phase is Phase.FLAGGED and liquidator.is_expirable(look.flag, at.timestamp_s),
        )

    def preview(
        self,
        target: Assessment,
        taker: Account,
        oracles: OracleView,
        max_fraction_wad: Wad,
        insurance_wad: Wad = 0,
    ) -> SlicePreview | Refuse:
        """Compute, to the wei, what one slice would do in block ``target.at``; refuse where it would revert.

        A taker below its initial margin is not refused but told by ``taker_passes``.
        """
        unpriced = self._lacking(target.account, oracles) or self._lacking(taker, oracles)
        if unpriced:
            return liquidator.refuse("oracle.unknown", f"{unpriced.what}: {unpriced.why}", "a price")
        slice_ = liquidator.liquidate(
            target.account,
            taker,
            oracles,
            target.at,
            self._rules,
            max_fraction_wad=max_fraction_wad,
            insurance_wad=insurance_wad,
        )
        if isinstance(slice_, Refuse):
            return slice_
        return SlicePreview(
            fraction_wad=slice_.fraction_wad,
            notional_wad=slice_.notional_wad,
            taker_fee_wad=slice_.fee.taker_wad + slice_.fee.from_insurance_wad,
            taker_mark_wad=slice_.taker_mark_wad,
            after=slice_.after,
            account_after=slice_.account,
            taker_after=slice_.taker,
            taker_passes=not slice_.taker_margin.breaches(),
        )

    def purchase(
        self, account: Account, oracles: OracleView, at: ChainTime, max_quote_wad: Wad
    ) -> Purchase | Refuse:
        """Compute what buying the first collateral of an account that has only debt would bring."""
        unpriced = self._lacking(account, oracles)
        if unpriced:
            return liquidator.refuse("oracle.unknown", f"{unpriced.what}: {unpriced.why}", "a price")
        return liquidator.purchase(account, oracles, at, self._rules, max_quote_wad=max_quote_wad)

    def _lacking(self, account: Account, oracles: OracleView) -> Unknown | None:
        """Name an instrument that the deployment does not list, or a feed without a view."""
        for leg in account.legs:
            if leg.market not in self._rules.perps:
                return Unknown(f"market {leg.market}", "not listed when the deployment was read")
        for holding in account.holdings:
            if holding.collateral not in self._rules.collaterals:
                return Unknown(f"collateral {holding.collateral}", "not listed when the deployment was read")
        for feed in liquidator.feeds_of(account, self._rules):
            if feed not in oracles:
                return Unknown(feed, "no view of its two prices")
        return None


def _in_episode(account: Account) -> bool:
    return account.phase in {Phase.FLAGGED, Phase.CONFIRMED}


def _reward(account: Account, look: liquidator.Outlook) -> Wad:
    """Return what a confirmation would still pay; it pays once an episode."""
    paid = account.phase is Phase.CONFIRMED
    return 0 if paid else liquidator.reward_wad(look.flag, look.found.execution)
