"""Which deployment of which protocol is kept; a preset fills in the addresses of a public one."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from keeper.state.part import WHOLE, Part
from keeper.units import FeedId


def _hex_address(text: str) -> str:
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", text) is None:
        raise ValueError("expected an address: 0x and 40 hexadecimal digits")
    return text.lower()


def _hex_id(text: str) -> str:
    if re.fullmatch(r"0x[0-9a-fA-F]{64}", text) is None:
        raise ValueError("expected an identifier: 0x and 64 hexadecimal digits")
    return text.lower()


def _one_of_many(text: str) -> str:
    number, of = map(int, text.split("/"))
    if number > of:
        raise ValueError(f"expected a part from 1/{of} to {of}/{of}")
    return text


Address = Annotated[str, AfterValidator(_hex_address)]
Id = Annotated[str, AfterValidator(_hex_id)]


class Section(BaseModel):
    """A section of the configuration; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Divided(Section):
    """A deployment, or the part of its accounts that is kept."""

    part: Annotated[str, Field(pattern=r"^[1-9][0-9]?/[1-9][0-9]?$"), AfterValidator(_one_of_many)] = "1/1"
    """Such as 2/3, the second third: others are for other wallets."""

    @property
    def scope(self) -> str:
        """Return the markets whose accounts are searched for, where they are listed."""
        return ""

    @property
    def own_markets(self) -> tuple[str, ...]:
        """Return the markets of the protocol's own of which an account can be in one only."""
        return ()

    @property
    def accounts(self) -> Part:
        """Return which accounts are kept."""
        number, of = map(int, self.part.split("/"))
        return Part(number, of)


class HybridDeployment(Divided):
    """Which HybridMargin to keep: its MarginReader, or its Clearing where it has none.

    All else is read from the chain.
    """

    protocol: Literal["hybrid"] = "hybrid"
    reader: Address | None = None
    clearing: Address | None = None
    from_block: int = Field(default=0, ge=0)
    chain_id: ClassVar[None] = None

    @model_validator(mode="after")
    def _is_named_once(self) -> Self:
        if (self.reader is None) == (self.clearing is None):
            raise ValueError("expected either reader, or clearing where no reader is deployed")
        return self

    @property
    def setting(self) -> str:
        """Return which of the two it is named by."""
        return "deployment.reader" if self.reader else "deployment.clearing"

    @property
    def address(self) -> str:
        """Return the address given, by which the journal and the book on disk know the deployment."""
        address = self.reader or self.clearing
        assert address is not None
        return address


class ForeignDeployment(Divided):
    """A deployment of somebody else's protocol, read through a contract of ours that is lent to the nodes."""

    protocol: str
    named_by: ClassVar[str]
    """The field with the address by which it is known."""

    preset: str | None = None
    chain_id: int | None = None
    """Of the preset, to be held against the chain's."""
    reader: Address | None = None
    """Where the reader is deployed, for nodes that cannot call what is not."""
    implementation: Address | None = None
    """The code behind the address that is trusted: with another one the keeper does not start."""
    from_block: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, raw: Any) -> Any:
        """Take from the preset what is not given."""
        if not (isinstance(raw, dict) and isinstance(raw.get("preset"), str)):
            return raw
        known = presets(str(raw["protocol"]))
        if raw["preset"] not in known:
            there = f"expected one of {', '.join(known)}" if known else "this protocol has none"
            raise ValueError(f"no preset {raw['preset']}: {there}")
        return {**known[raw["preset"]], **raw}

    @property
    def setting(self) -> str:
        """Return the name of the setting that tells where it is."""
        return f"deployment.{self.named_by}"

    @property
    def address(self) -> str:
        """Return the address by which the journal and the book on disk know the deployment."""
        address: str = getattr(self, self.named_by)
        return address


class LendingDeployment(ForeignDeployment):
    """A protocol that lends, and whose oracle is traced to feeds."""

    feeds: dict[Address, FeedId] = {}
    """Names for price feeds that do not tell their own: by the address of the feed, of an oracle that is
    taken for one, or of a token where each has one price."""


class AaveDeployment(LendingDeployment):
    """A pool of Aave v3."""

    named_by = "pool"

    protocol: Literal["aave_v3"]
    pool: Address


class MorphoDeployment(LendingDeployment):
    """Some markets of Morpho Blue."""

    named_by = "morpho"

    protocol: Literal["morpho_blue"]
    morpho: Address
    markets: tuple[Id, ...] = Field(min_length=1)
    pre_liquidations: tuple[Address, ...] = ()
    """Contracts by which owners of these markets may have agreed to earlier and smaller liquidations."""
    pre_liquidation_factory: Address | None = None
    """Where each of them must come from, where it is given."""
    tokens: dict[Address, FeedId] = {}
    """By token that is lent, the feed that values it in quote; "USD" where it is worth one of it."""

    @property
    def scope(self) -> str:
        """Return the markets: of others no account is known."""
        return " ".join(sorted(self.markets))

    @property
    def own_markets(self) -> tuple[str, ...]:
        """Return the identifiers of the markets."""
        return self.markets


class VenusDeployment(LendingDeployment):
    """An isolated pool of Venus: a Comptroller and its markets."""

    named_by = "comptroller"

    protocol: Literal["compound_v2"]
    comptroller: Address


class PerpDeployment(ForeignDeployment):
    """Perpetual v2."""

    named_by = "clearing_house"

    protocol: Literal["perp_curie"]
    clearing_house: Address
    markets: dict[Address, FeedId] = Field(min_length=1)
    """By virtual token, the feed that moves as the market's index does; "" where the index names its own."""


KINDS = (HybridDeployment, AaveDeployment, MorphoDeployment, VenusDeployment, PerpDeployment)


def _protocol(raw: Any) -> str | None:
    """Tell the protocol of a section; HybridMargin where it names none, None where it is no section."""
    return str(raw.get("protocol", "hybrid")) if isinstance(raw, dict) else getattr(raw, "protocol", None)


Deployment: TypeAlias = Annotated[
    Annotated[HybridDeployment, Tag("hybrid")]
    | Annotated[AaveDeployment, Tag("aave_v3")]
    | Annotated[MorphoDeployment, Tag("morpho_blue")]
    | Annotated[VenusDeployment, Tag("compound_v2")]
    | Annotated[PerpDeployment, Tag("perp_curie")],
    Discriminator(
        _protocol,
        custom_error_type="deployment_protocol",
        custom_error_message="protocol should be 'hybrid', 'aave_v3', 'morpho_blue', 'compound_v2' or"
        " 'perp_curie'",
    ),
]
"""Of which protocol it is, and where: ``protocol`` tells them apart."""


def name_of(deployment: Deployment) -> str:
    """Return how journal and book know what is kept: its address, and the part where it is not the whole."""
    whole = deployment.accounts == WHOLE
    return deployment.address if whole else f"{deployment.address} part {deployment.part}"


def in_common(one: Deployment, other: Deployment) -> str:
    """Say what two configurations of one deployment both keep; nothing where no account can be in both.

    Accounts of Morpho Blue are of one market each, those of other protocols of all that their owner is in.
    """
    if not one.accounts.meets(other.accounts):
        return ""
    if isinstance(one, MorphoDeployment) and isinstance(other, MorphoDeployment):
        return ", ".join(f"market {each}" for each in one.markets if each in other.markets)
    return f"accounts of {name_of(other)}"


@cache
def presets(protocol: str) -> dict[str, dict[str, Any]]:
    """Return the presets of a protocol by name; scripts/presets writes them."""
    file = files("keeper") / "presets" / f"{protocol}.toml"
    return tomllib.loads(file.read_text()) if file.is_file() else {}
