"""What is known of one deployment from its beginning: its contracts, its markets, and their feeds."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper import abi
from keeper.domain import Call
from keeper.errors import ConfigError
from keeper.units import FeedId

LENT_READER: Final = f"0x{b'PerpReader'.hex():0>40}"
"""Where calls find the reader that is not deployed."""

load: Final = partial(abi.load, "readers")
_SETTLEMENT_TOKEN: Final = abi.function("getSettlementToken()", returns="address")


@dataclass(frozen=True, slots=True)
class Deployment:
    """The contracts of Perpetual v2, by address in lower case, and its markets in the order of columns."""

    clearing_house: str
    vault: str
    token: str
    """What it settles in."""
    reader: str
    named: Mapping[str, FeedId]
    """By virtual token, the feed that moves as the market's index does; empty where its own feed names it."""
    feeds: tuple[FeedId | None, ...] = ()
    """By market; None where nothing names one: then both clocks have the chain's mark."""
    version: int = 0

    @property
    def bases(self) -> tuple[str, ...]:
        """The virtual token of every market."""
        return tuple(self.named)

    @property
    def unnamed(self) -> tuple[str, ...]:
        """The markets without a feed."""
        return tuple(base for base, feed in zip(self.bases, self.feeds, strict=True) if feed is None)


def reader_creation(clearing_house: str) -> bytes:
    """Return what makes a reader of a deployment."""
    code: str = abi.artifact("readers", "PerpReader")["bytecode"]
    return bytes.fromhex(code[2:]) + encode(["address"], [clearing_house])


def read_deployment(
    clearing_house: str, markets: Mapping[str, FeedId], reader: str = LENT_READER
) -> Generator[list[Call], list[bytes], Deployment]:
    """Find out the contracts and the feeds of some markets, each by its virtual token.

    Raises ConfigError where the reader is of another deployment.
    """
    functions = load("PerpReader").functions
    names = ("clearingHouse", "vault")
    answers = yield [functions[name].call(reader) for name in names]
    house, vault = (functions[name].result(each)[0] for name, each in zip(names, answers, strict=True))
    if house != clearing_house.lower():
        raise ConfigError(f"the reader {reader} reads {house}, not {clearing_house}")
    (answer,) = yield [_SETTLEMENT_TOKEN.call(vault)]
    (token,) = _SETTLEMENT_TOKEN.result(answer)
    named = {base.lower(): feed for base, feed in markets.items()}
    return (yield from read_feeds(Deployment(house, vault, token, reader, named)))


def read_feeds(deployment: Deployment) -> Generator[list[Call], list[bytes], Deployment]:
    """Find out anew which feed each market hangs on."""
    world = load("PerpReader").functions["world"]
    (answer,) = yield [world.call(deployment.reader, deployment.bases)]
    _, markets = world.result(answer)
    told = [(feed, description) for *_, feed, description in markets]
    names = zip(deployment.named.values(), told, strict=True)
    feeds = tuple(named or _feed_of(description) for named, (_, description) in names)
    return replace(deployment, feeds=feeds, version=version_of(told))


def version_of(told: Sequence[tuple[str, bytes]]) -> int:
    """Return what changes when a market's index is fed by another contract."""
    return int.from_bytes(keccak(encode(["(address,bytes32)[]"], [told]))[:8])


def _feed_of(description: bytes) -> FeedId | None:
    """Read the name of a pair, as aggregators have it: ``ETH / USD``."""
    name = description.rstrip(b"\0").decode("ascii", "replace")
    base, slash, quote = name.partition(" / ")
    is_pair = slash and (base + quote).isascii() and (base + quote).isalnum()
    return f"{base}/{quote}" if is_pair else None
