"""What a transaction pays for its bytes on another chain, as the contracts of its own one tell.

It may be a fee besides its gas (OP stack), or more gas (Arbitrum), without which it runs out of gas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.domain import Call
from keeper.units import Wei, mul_div_up

OP_ORACLE: Final = "0x420000000000000000000000000000000000000f"
"""The GasPriceOracle of every chain of the OP stack (contracts-bedrock/src/L2/GasPriceOracle.sol)."""
OP_UPPER_BOUND: Final = keccak(text="getL1FeeUpperBound(uint256)")[:4]
"""Of a transaction's size, since Fjord."""
ARBITRUM_NODE: Final = "0x00000000000000000000000000000000000000c8"
"""The NodeInterface by which nodes of Arbitrum answer (OffchainLabs/nitro-contracts,
src/node-interface/NodeInterface.sol); on chain there is nothing."""
ARBITRUM_ESTIMATE: Final = keccak(text="gasEstimateL1Component(address,bool,bytes)")[:4]
"""Returns a transaction's gas for its bytes at the base fee of now, without anything on top of it."""
ENVELOPE_BYTES: Final = 140
"""Of a transaction besides its calldata (Nitro's AssumedSimpleTxSize)."""
RISES: Final = 2
"""What is paid is that of the block it runs in: so many times the one of now is taken as the most."""


@dataclass(frozen=True, slots=True)
class DataCost:
    """What a transaction of some size pays for its bytes, at the most."""

    fee_wei: Wei = 0
    """Besides its gas."""
    gas: int = 0
    """As more gas."""


class Levy(Protocol):
    """Whoever tells what bytes cost on a chain."""

    @property
    def size(self) -> int:
        """How many bytes of calldata it is asked about."""
        ...

    def call(self) -> Call:
        """Build the question."""
        ...

    def read(self, answer: bytes) -> DataCost:
        """Read the answer; raise ValueError where it is none."""
        ...


@dataclass(frozen=True, slots=True)
class OpStack:
    """Asks the OP stack's GasPriceOracle."""

    size: int

    def call(self) -> Call:
        """Ask for the upper bound of a transaction's size."""
        return Call(OP_ORACLE, OP_UPPER_BOUND + self.size.to_bytes(32))

    def read(self, answer: bytes) -> DataCost:
        """Take the bound, and what it may rise by."""
        return DataCost(fee_wei=RISES * _word(answer))


@dataclass(frozen=True, slots=True)
class Arbitrum:
    """Asks a node of Arbitrum for the gas of bytes that cannot be compressed."""

    size: int

    def call(self) -> Call:
        """Ask about noise, the same for each size."""
        noise = b"".join(keccak(place.to_bytes(32)) for place in range(-(-self.size // 32)))[: self.size]
        asked = encode(["address", "bool", "bytes"], [OP_ORACLE, False, noise])
        return Call(ARBITRUM_NODE, ARBITRUM_ESTIMATE + asked)

    def read(self, answer: bytes) -> DataCost:
        """Take the estimate, and what it may rise by."""
        return DataCost(gas=RISES * _word(answer))


def gas_of(cost: DataCost, levy: Levy, size: int) -> int:
    """Return what the bytes of a transaction with so much calldata take as gas, rounded up."""
    return mul_div_up(cost.gas, size + ENVELOPE_BYTES, levy.size)


def _word(answer: bytes) -> int:
    if len(answer) < 32:
        raise ValueError(f"expected a word of 32 bytes, found {len(answer)} bytes")
    return int.from_bytes(answer[:32])
