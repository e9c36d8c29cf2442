"""Where a signed transaction may be handed over: everybody's mempool, a relay, an auction behind an oracle.

A transport takes bytes and promises nothing: whether a transaction is in a block, the chain alone says. Each
but the last has it to itself for some blocks; then the next one is given the same bytes, under the same nonce
and hash, so that whoever comes first, it is included once.

Methods and their parameters are those of Flashbots' relay (docs.flashbots.net, "JSON-RPC Endpoints") and of
MEV-Share (github.com/flashbots/mev-share, specs/bundles/v0.1.md), which other builders take as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from keeper.errors import ChainFault, InvariantBroken
from keeper.units import Block

PENDING_UPDATES = "mevshare_pendingUpdates"
"""Asked of whoever listens for hints, like a method of a node, so that a tape has the answer too."""


class Via(StrEnum):
    """The transports there are."""

    PUBLIC = "public"
    BUNDLE = "bundle"
    PRIVATE = "private"
    AUCTION = "auction"


class Passed(ChainFault):
    """The transport has handed on nothing, which is certain: there was nothing in it for this transaction."""


class Asked(Protocol):
    """A node or a relay, as far as a transport needs it; raises ChainFault with its words."""

    async def request(self, method: str, params: list[Any]) -> Any:
        """Send one request, once."""
        ...


@dataclass(frozen=True, slots=True)
class Parcel:
    """Signed bytes on their way, and the blocks that they are meant for."""

    raw: bytes
    below: tuple[tuple[bytes, str], ...]
    """What the wallet has in flight under lower nonces, bytes and hash, which must be included before."""
    first: Block
    last: Block | None
    """None where nobody comes after the transport."""


class Transport(Protocol):
    """Hands a transaction over to whoever may include it."""

    is_for_one_block: ClassVar[bool]
    """Whether it has to be told again at every head."""

    async def deliver(self, parcel: Parcel) -> None:
        """Return where it was taken; raise ChainFault with the words of whoever did not take it."""
        ...


@dataclass(frozen=True, slots=True)
class Public:
    """The mempool of a node, or of all of them where ``chain.broadcast`` says so."""

    rpc: Asked
    is_for_one_block: ClassVar[bool] = False

    async def deliver(self, parcel: Parcel) -> None:
        """Send the bytes as they are."""
        await self.rpc.request("eth_sendRawTransaction", [_hex(parcel.raw)])


@dataclass(frozen=True, slots=True)
class Bundle:
    """A relay that puts a bundle into one block or leaves it out; a reverting one costs nothing there."""

    relay: Asked
    is_for_one_block: ClassVar[bool] = True

    async def deliver(self, parcel: Parcel) -> None:
        """Offer the transaction for the next block, behind those it cannot go before; these may revert."""
        bundle = {
            "txs": [_hex(raw) for raw, _ in parcel.below] + [_hex(parcel.raw)],
            "blockNumber": hex(parcel.first),
            "revertingTxHashes": [tx_hash for _, tx_hash in parcel.below],
        }
        await self.relay.request("eth_sendBundle", [bundle])


@dataclass(frozen=True, slots=True)
class Private:
    """A relay that keeps a transaction to itself until it is included, or some block has passed."""

    relay: Asked
    is_for_one_block: ClassVar[bool] = False

    async def deliver(self, parcel: Parcel) -> None:
        """Hand the transaction over, up to the last block in which it is to be private."""
        until = {} if parcel.last is None else {"maxBlockNumber": hex(parcel.last)}
        await self.relay.request("eth_sendPrivateTransaction", [{"tx": _hex(parcel.raw), **until}])


@dataclass(frozen=True, slots=True)
class Auction:
    """The place right behind a pending update of an oracle, which searchers bid for; the tip is the bid."""

    relay: Asked
    is_for_one_block: ClassVar[bool] = True

    async def deliver(self, parcel: Parcel) -> None:
        """Follow the newest update that is pending; raise Passed where there is none, or no way behind it."""
        if parcel.below:
            # A bundle there holds one hash and one transaction that follows it.
            raise Passed(f"auction: {len(parcel.below)} transactions of lower nonces are in flight")
        updates: Sequence[str] = await self.relay.request(PENDING_UPDATES, [])
        if not updates:
            raise Passed("auction: no update of an oracle is pending")
        bundle = {
            "version": "v0.1",
            "inclusion": {"block": hex(parcel.first), "maxBlock": hex(parcel.last or parcel.first)},
            "body": [{"hash": updates[-1]}, {"tx": _hex(parcel.raw), "canRevert": False}],
        }
        await self.relay.request("mev_sendBundle", [bundle])


@dataclass(slots=True)
class Tally:
    """What became of all that one transport was handed since the start."""

    answers: Counter[str] = field(default_factory=Counter)
    answer_s: float = 0.0
    """How long the answers took, all together."""
    included: int = 0
    blocks: Block = 0
    """From a permit to the block that included its transaction, all together."""

    def note(self, answer: str, took_s: float) -> None:
        """Count an answer."""
        self.answers[answer] += 1
        self.answer_s += took_s

    def include(self, blocks: Block) -> None:
        """Count an inclusion, so many blocks after the permit."""
        self.included += 1
        self.blocks += blocks


class Route:
    """The transports of one deployment, in their order; what it says follows from a transaction's age."""

    def __init__(self, ways: Mapping[Via, Transport], *, blocks: Block) -> None:
        self._ways = list(ways.items())
        self._blocks = blocks
        self.tallies = {via: Tally() for via in ways}

    def turn(self, age: Block) -> int:
        """Return whose turn it is with a transaction that was reserved so many blocks ago."""
        return min(max(age, 0) // self._blocks, self.end)

    def place_of(self, via: Via) -> int | None:
        """Return whose turn a transport has; None where it is not on the route."""
        return next((place for place, (each, _) in enumerate(self._ways) if each is via), None)

    def from_(self, turn: int) -> Iterator[tuple[int, Via, Transport]]:
        """Yield the transport whose turn it is, and those after it."""
        for place, (via, transport) in enumerate(self._ways[turn:], start=turn):
            yield place, via, transport

    @property
    def end(self) -> int:
        """Whose turn is the last."""
        return len(self._ways) - 1

    def goes_on(self, carrier: int, age: Block) -> bool:
        """Tell whether whoever has taken a transaction must hear of it again, or the next one is to."""
        return self.turn(age) > carrier or self._ways[carrier][1].is_for_one_block

    def last_block(self, turn: int, reserved: Block) -> Block | None:
        """Return the last block for which a transport has a transaction to itself; None for the last one."""
        return None if self.is_last(turn) else reserved + (turn + 1) * self._blocks

    def is_last(self, turn: int) -> bool:
        """Tell whether nobody comes after a transport."""
        return turn == self.end


def route_of(vias: Sequence[Via], node: Asked, relay: Asked | None, *, blocks: Block) -> Route:
    """Put a route together; raise InvariantBroken where it needs a relay and there is none."""
    if relay is None and set(vias) != {Via.PUBLIC}:
        raise InvariantBroken(f"a relay is needed for {', '.join(vias)}")
    over: dict[Via, type[Bundle | Private | Auction]] = {
        Via.BUNDLE: Bundle,
        Via.PRIVATE: Private,
        Via.AUCTION: Auction,
    }
    ways: dict[Via, Transport] = {}
    for via in vias:
        ways[via] = Public(node) if relay is None or via is Via.PUBLIC else over[via](relay)
    return Route(ways, blocks=blocks)


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()
