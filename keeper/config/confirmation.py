"""By which policy and which witnesses an alarm is confirmed."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from keeper.confirm.policy import PRESETS, Divergence, Policy, tuned
from keeper.deployments import Address, Section
from keeper.oracles.aggregator import Aggregator, Delayed
from keeper.oracles.delayed import Queued
from keeper.oracles.twap import Twap
from keeper.units import BPS, WAD, FeedId

FIELDS = (
    "agree",
    "band_bps",
    "min_delay_s",
    "min_blocks",
    "confirmations",
    "divergence",
    "max_divergence",
    "timeout_s",
    "trust_chain_after_s",
    "max_oracle_age_s",
)
"""Of a policy, as the configuration calls them."""


class Bounds(Section):
    """Fields of a policy that the operator sets; what is left out is as the preset has it."""

    policy: Literal["fast", "balanced", "cautious"] | None = None
    agree: int | Literal["all"] | None = Field(default=None, union_mode="left_to_right")
    """So many of a feed's witnesses, the protocol's own price counted; or all."""
    band_bps: int | None = Field(default=None, ge=0, le=1_000)
    min_delay_s: int | None = Field(default=None, ge=0, le=3_600)
    min_blocks: int | None = Field(default=None, ge=1, le=100)
    confirmations: int | None = Field(default=None, ge=1, le=100)
    divergence: Divergence | None = None
    max_divergence: Decimal | None = Field(default=None, gt=0, le=Decimal("0.3"))
    timeout_s: int | None = Field(default=None, ge=60, le=604_800)
    trust_chain_after_s: int | Literal["never"] | None = Field(default=None, union_mode="left_to_right")
    max_oracle_age_s: int | None = Field(default=None, gt=0)

    @field_validator("agree")
    @classmethod
    def _some_agree(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least 1: the protocol's own price always counts")
        return value

    @field_validator("trust_chain_after_s")
    @classmethod
    def _no_future(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 0:
            raise ValueError("at least 0")
        return value

    def chosen(self, base: Bounds | None = None) -> Policy:
        """Return the policy: the preset that is named here, or else in ``base``, with what both change.

        Naming another preset leaves behind what ``base`` changes of its own.
        """
        over = base if base is not None and self.policy in (None, base.policy) else None
        name = self.policy or (base.policy if base else None) or "balanced"
        [preset] = (each for each in PRESETS if each.name == name)
        return tuned(preset, **{**(over.changes() if over else {}), **self.changes()})

    def changes(self) -> dict[str, object]:
        """Return the fields of a policy that are set, in its own words."""
        said = {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}
        for name, new in (("max_divergence", "max_divergence_wad"), ("max_oracle_age_s", "max_age_s")):
            if name in said:
                value = said.pop(name)
                said[new] = int(value * WAD) if name == "max_divergence" else value
        for name, endless in (("agree", "all"), ("trust_chain_after_s", "never")):
            if said.get(name) == endless:
                said[name] = None
        return said


class AggregatorWitness(Section):
    """The newest round of an aggregator like Chainlink's."""

    kind: Literal["aggregator"]
    address: Address
    heartbeat_s: int = Field(default=3_600, gt=0)
    deviation_bps: int = Field(default=50, gt=0, le=1_000)

    def called(self, witness: str, feed: FeedId) -> Aggregator:
        """Return the witness, by its name."""
        del feed
        return Aggregator(witness, self.address, self.heartbeat_s, self.deviation_bps * WAD // BPS)


class DelayedWitness(Section):
    """An aggregator's newest round that is so old, or the value of an oracle that lets each wait."""

    kind: Literal["delayed"]
    address: Address
    delay_s: int | None = Field(default=None, ge=60, le=86_400)
    """Of an aggregator; without it ``address`` is a queue, which has a delay of its own."""
    heartbeat_s: int = Field(default=3_600, gt=0)
    deviation_bps: int = Field(default=50, gt=0, le=1_000)

    def called(self, witness: str, feed: FeedId) -> Delayed | Queued:
        """Return the witness, by its name."""
        deviation_wad = self.deviation_bps * WAD // BPS
        if self.delay_s is None:
            return Queued(witness, self.address, feed, self.heartbeat_s, deviation_wad)
        return Delayed(witness, self.address, self.delay_s, self.heartbeat_s, deviation_wad)


class TwapWitness(Section):
    """The mean price of a Uniswap v3 pool over a window."""

    kind: Literal["twap"]
    pool: Address
    base: Address
    """The token that is priced."""
    quote: Address
    """What it is priced in, such as a dollar."""
    window_s: int = Field(default=1_800, ge=600, le=86_400)
    least_observations: int = Field(default=2, ge=2, le=65_535)
    least_liquidity: int = Field(default=0, ge=0)

    def called(self, witness: str, feed: FeedId) -> Twap:
        """Return the witness, by its name."""
        del feed
        told = self.model_dump(exclude={"kind"})
        return Twap(witness, **told)


AnyWitness: TypeAlias = Annotated[
    AggregatorWitness | DelayedWitness | TwapWitness, Field(discriminator="kind")
]


class Confirmation(Bounds):
    """What the keeper asks of the slow evidence, beyond what the contract asks (docs/confirmation.md)."""

    policy: Literal["fast", "balanced", "cautious"] | None = "balanced"
    witnesses: dict[FeedId, dict[str, AnyWitness]] = Field(default={})
    """By feed and name: who else on chain is asked."""
    last_alarms: int = Field(default=50, ge=10, le=1_000)
    """So many of a market's ended alarms are looked at."""
    least_alarms: int = Field(default=10, ge=1, le=1_000)
    """With fewer nothing is said of it."""
    most_false: float = Field(default=0.8, gt=0, le=1)
    """The share of false ones above which a market is confirmed by a preset more cautious."""
    feeds: dict[FeedId, Bounds] = Field(default={})
    """Another policy for what hangs on a feed."""
