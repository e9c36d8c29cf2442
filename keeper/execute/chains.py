"""What is known of sending on each chain: who pools transactions, what a tip buys, what is paid besides gas.

Nothing here is asked of a node, and a chain may change it: each entry names where it is written. A chain that
is not listed is taken for one like Ethereum without relays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from keeper.execute.transports import Via
from keeper.units import Block


class Pool(StrEnum):
    """Where a transaction waits until it is included."""

    PUBLIC = "a public mempool"
    SEQUENCER = "a pool that only the sequencer sees"
    NONE = "no pool: the sequencer takes what comes, in that order"


class DataFee(StrEnum):
    """What a transaction pays for its bytes on another chain."""

    NONE = "nothing but gas"
    BESIDES_GAS = "a fee for its bytes on Ethereum besides its gas"
    IN_GAS = "a fee for its bytes on Ethereum, as more gas"


L1Fee: TypeAlias = Literal["none", "op", "arbitrum"]
"""Who tells what a transaction pays for its bytes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How one chain takes transactions."""

    name: str
    pool: Pool
    tip_orders: bool
    """Whether a higher tip is included first; where not, it buys nothing."""
    outbids: bool
    """Whether a transaction that waits can be replaced by one that bids more."""
    data_fee: DataFee
    block_s: float
    final_s: int
    """How long it may take until a block cannot be taken back."""
    relays: frozenset[Via]
    """Which transports there are besides the nodes."""
    sources: tuple[str, ...]

    @property
    def l1_fee(self) -> L1Fee:
        """Return who tells what bytes cost, as ``chain.l1_fee`` calls it: one of each kind is known."""
        kinds: Mapping[DataFee, L1Fee] = {DataFee.BESIDES_GAS: "op", DataFee.IN_GAS: "arbitrum"}
        return kinds.get(self.data_fee, "none")

    @property
    def block_time_s(self) -> int:
        """Return the time between blocks in whole seconds, at least one."""
        return max(1, round(self.block_s))

    @property
    def final_blocks(self) -> Block:
        """Return after how many blocks one cannot be taken back."""
        return math.ceil(self.final_s / self.block_s)


MEMPOOLS = "docs.chainstack.com/docs/mempool-configuration"
"""A table of chains and whose their mempools are."""
RELAY = "docs.flashbots.net/flashbots-auction/advanced/rpc-endpoint"
SHARE = "docs.flashbots.net/flashbots-mev-share/searchers/getting-started"
OP_FEES = "docs.optimism.io/stack/transactions/fees"
OP_CLIENT = "docs.optimism.io, Chain Architecture: op-geth is geth with minimal changes, its pool included"
OP_FINALITY = "docs.optimism.io/stack/transactions/transaction-finality: 20 to 30 minutes"

ETHEREUM = Rules(
    name="Ethereum",
    pool=Pool.PUBLIC,
    tip_orders=True,
    outbids=True,
    data_fee=DataFee.NONE,
    block_s=12,
    final_s=3 * 32 * 12,
    relays=frozenset({Via.BUNDLE, Via.PRIVATE, Via.AUCTION}),
    sources=(
        MEMPOOLS,
        RELAY,
        SHARE,
        "docs.chainstack.com/docs/ethereum-fast-confirmation: two to three epochs",
    ),
)
KNOWN: Mapping[int, Rules] = {
    1: ETHEREUM,
    10: Rules(
        name="OP Mainnet",
        pool=Pool.SEQUENCER,
        tip_orders=True,
        outbids=True,
        data_fee=DataFee.BESIDES_GAS,
        block_s=2,
        final_s=1_800,
        relays=frozenset(),
        sources=(OP_FEES, OP_CLIENT, OP_FINALITY),
    ),
    56: Rules(
        name="BNB Smart Chain",
        pool=Pool.PUBLIC,
        tip_orders=True,
        outbids=True,
        data_fee=DataFee.NONE,
        block_s=0.45,
        final_s=2,
        relays=frozenset(),
        sources=(
            MEMPOOLS,
            "docs.bnbchain.org/announce/fermi-bsc: blocks of 0.45 s since January 2026",
            "docs.bnbchain.org/bnb-smart-chain/developers/json_rpc/bsc-api-list: final two blocks later",
            "docs.bloxroute.com/bsc/submit-bundles: bundles by blxr_submit_bundle, another method",
        ),
    ),
    8453: Rules(
        name="Base",
        pool=Pool.SEQUENCER,
        tip_orders=True,
        outbids=True,
        data_fee=DataFee.BESIDES_GAS,
        block_s=2,
        final_s=1_800,
        relays=frozenset(),
        sources=(
            MEMPOOLS,
            "docs.base.org/base-chain/flashblocks: parts of blocks each 200 ms, ordered by fee",
            "docs.base.org/base-chain/network-information/network-fees",
            "docs.base.org/base-chain/network-information/transaction-finality",
            OP_CLIENT,
            OP_FINALITY,
        ),
    ),
    42161: Rules(
        name="Arbitrum One",
        pool=Pool.NONE,
        tip_orders=False,
        outbids=False,
        data_fee=DataFee.IN_GAS,
        block_s=0.25,
        final_s=1_800,
        relays=frozenset(),
        sources=(
            MEMPOOLS,
            "docs.arbitrum.io/how-arbitrum-works/deep-dives/sequencer-transaction-flow: first in, first out",
            "docs.arbitrum.io/build-decentralized-apps/arbitrum-vs-ethereum/nonce-management",
            "docs.arbitrum.io/launch-arbitrum-chain/chain-config/costs/priority-fees: tips are not collected",
            "docs.arbitrum.io/how-arbitrum-works/timeboost/troubleshoot-timeboost: blocks of 250 ms",
            "docs.arbitrum.io/sdk/dataEntities_rpc: gasUsedForL1 of a receipt",
            "docs.arbitrum.io/how-arbitrum-works/reference/finality-and-reorgs",
        ),
    ),
    11155111: Rules(
        name="Sepolia",
        pool=Pool.PUBLIC,
        tip_orders=True,
        outbids=True,
        data_fee=DataFee.NONE,
        block_s=12,
        final_s=3 * 32 * 12,
        relays=frozenset({Via.BUNDLE, Via.PRIVATE}),
        sources=(RELAY,),
    ),
}
UNKNOWN = Rules(
    name="a chain of which nothing is known",
    pool=Pool.PUBLIC,
    tip_orders=True,
    outbids=True,
    data_fee=DataFee.NONE,
    block_s=12,
    final_s=3 * 32 * 12,
    relays=frozenset(),
    sources=(),
)


def rules_of(chain_id: int) -> Rules:
    """Return what is known of a chain."""
    return KNOWN.get(chain_id, UNKNOWN)
