"""How much of an account is taken, when that pays, and where it is sold."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from keeper.deployments import Address, Section
from keeper.lending.words import Lender
from keeper.plan.common import Policy as ClosingPolicy
from keeper.plan.pace import Kind as PaceKind
from keeper.plan.queue import OLD_BLOCKS
from keeper.risk.liquidity import VOLATILITY, Depth
from keeper.units import BPS, WAD


class Closing(Section):
    """How loans of lending protocols are closed, and what with."""

    policy: ClosingPolicy = ClosingPolicy.RESTORE
    """``restore``: the least that brings an account up to ``target_health``; ``max``: all that is allowed."""
    target_health: Decimal = Field(default=Decimal("1.05"), gt=1, le=2)
    slippage: Decimal = Field(default=Decimal("0.01"), ge=0, lt=1)
    """How far below its price what is seized may sell."""
    liquidator: Address | None = None
    """A FlashLiquidator that the wallet operates; without it the wallet pays, and keeps what it seizes."""
    lender: Lender = Lender.MORPHO
    """Who lends to it."""
    seized: Literal["keep", "convert"] = "keep"
    """What becomes of what the wallet itself seizes."""
    into: Address | None = None
    """The token that it is converted into; all others that the protocol lists are sold."""


class Exchange(Section):
    """Where what is seized is sold: every pool that these factories made of a listed token and a bridge."""

    uniswap_v3: Address | None = None
    uniswap_v2: Address | None = None
    router: Address | None = None
    """Uniswap's SwapRouter of v3, by which the wallet sells what it seized."""
    bridges: tuple[Address, ...] = ()
    """Tokens whose pools with every other are looked up, and over which two others are exchanged."""


class Economics(Section):
    """What makes an act worth its gas; quote amounts."""

    min_profit: Decimal = Decimal(0)
    upkeep: bool = True
    native_feed: str = "ETH/USD"
    """The feed whose price values gas."""
    at_worst_fee: bool = False
    """Whether a step has to pay at the highest fee that may be bid for it."""
    solvency_day: Decimal = Field(default=Decimal(0), ge=0)
    """What steps may lose in 24 h on accounts that would else leave bad debt."""
    rest_s: int = Field(default=60, ge=0, le=3600)
    """How long an account is left alone that the keeper has restored,"""
    rest_band: Decimal = Field(default=Decimal("0.01"), ge=0, le=1)
    """unless its health is below 1, or below what it was, by more than this."""


class DepthOf(Section):
    """How deep the market of one feed is, and what the keeper may hold of it; quote amounts."""

    volume_day: Decimal | None = Field(default=None, gt=0)
    volatility: float = Field(default=VOLATILITY, ge=0, le=5)
    """Annualised."""
    y: float = Field(default=1.0, ge=0, le=10)
    """What the square-root law is multiplied by."""
    levels: tuple[tuple[Annotated[float, Field(ge=0, le=10_000)], Annotated[Decimal, Field(gt=0)]], ...] = ()
    """Of the book: basis points from the mid, rising, and the notional there."""
    most_bps: float = Field(default=20, gt=0, le=10_000)
    """The most that selling what is taken within a minute is expected to cost."""
    inventory: Decimal | None = Field(default=None, ge=0)
    """The most that the keeper holds of it, long or short."""

    @model_validator(mode="after")
    def _is_a_market(self) -> Self:
        _ = self.depth().most_wad
        return self

    def depth(self) -> Depth:
        """Return it in the planner's units."""
        return Depth(
            most_bps=self.most_bps,
            volume_day=None if self.volume_day is None else float(self.volume_day),
            volatility=self.volatility,
            y=self.y,
            levels=tuple((bps / BPS, float(notional)) for bps, notional in self.levels),
            inventory_wad=None if self.inventory is None else int(self.inventory * WAD),
        )


class Pacing(Section):
    """How fast a breach is worked off, and who goes first."""

    kind: PaceKind = PaceKind.PLAIN
    share: Decimal = Field(default=Decimal(1), gt=0, le=1)
    """Of what is permitted: what ``plain`` takes in a step, and the least that ``severity`` takes."""
    full_fall: Decimal = Field(default=Decimal("0.02"), gt=0, le=1)
    """``severity``: the fall of health in a minute from which on all is taken."""
    old_blocks: int = Field(default=OLD_BLOCKS, ge=0)
    """A case older than so many blocks goes before all others."""
    flow_fall: float = Field(default=0.05, gt=0, lt=0.9)
    """The further fall of all prices at which the book's liquidations are measured."""
