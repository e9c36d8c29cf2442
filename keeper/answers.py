"""What a node said to a signed transaction, read from its words: one table of real messages.

JSON-RPC has no codes of its own for this, and one code means several things (-32000 at geth nearly all), so
that words count and codes do not. What is unfamiliar is unknown, and unknown is not a refusal: the bytes may
lie in a pool, and stay in flight. So may those that a provider held up, or that a full pool passed over: who
asked it may have asked others, and nothing is lost by asking again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")


class Answer(StrEnum):
    """What became of the bytes at whoever was asked."""

    TAKEN = "taken"
    KNOWN = "known"
    """It has these bytes already, or had them: the receipt will tell."""
    NONCE_TOO_LOW = "nonce too low"
    """The nonce is used, by these bytes or by others: the receipt will tell."""
    NONCE_GAP = "nonce gap"
    UNDERPRICED = "underpriced"
    """Less than this node asks of anybody."""
    REPLACEMENT_UNDERPRICED = "replacement underpriced"
    """Another transaction holds the nonce, and is not outbid."""
    FEE_TOO_LOW = "fee too low"
    """Less than the block's base fee."""
    INSUFFICIENT_FUNDS = "insufficient funds"
    REFUSED = "refused"
    """For its gas, size, chain, signature or total fee: again, it would be refused again."""
    POOL_FULL = "pool full"
    RATE_LIMITED = "rate limited"
    UNKNOWN = "unknown"


A = Answer
HAS = frozenset({A.TAKEN, A.KNOWN, A.NONCE_TOO_LOW})
"""Nobody else needs to be asked: the bytes are there, or there is nothing left for them to do."""
REFUSALS = frozenset({
    A.NONCE_GAP, A.UNDERPRICED, A.REPLACEMENT_UNDERPRICED, A.FEE_TOO_LOW, A.INSUFFICIENT_FUNDS, A.REFUSED
})  # fmt: skip
"""The node looked at the bytes and does not have them. It says nothing of bytes that were sent before."""


@dataclass(frozen=True, slots=True)
class Words:
    """Words by which a message is known, in lower case, who says them, and where that is written."""

    answer: Answer
    words: str
    source: str


GETH = "geth, core/txpool/errors.go"
GETH_CORE = "geth, core/error.go"
GETH_POOL = "geth, core/txpool/legacypool/legacypool.go"
NETHERMIND = (
    "Nethermind, src/Nethermind/Nethermind.TxPool/AcceptTxResult.cs (by name; of late in geth's words)"
)
ERIGON = "Erigon, txnprovider/txpool/txpoolcfg/txpoolcfg.go"
ERIGON_OLD = "Erigon, erigon-lib/txpool/txpoolcfg/txpoolcfg.go"
RETH = "Reth, crates/rpc/rpc-eth-types/src/error/mod.rs"
BESU = "Besu, jsonrpc/internal/response/RpcErrorType.java"
ANVIL = "Anvil, crates/anvil/src/eth/error.rs"
PARITY = "OpenEthereum, as quoted in smartcontractkit/chainlink, core/chains/evm/client/errors.go"
ARBITRUM = "Arbitrum, as quoted in smartcontractkit/chainlink, core/chains/evm/client/errors.go"
OPTIMISM = "OP stack, as quoted in smartcontractkit/chainlink, core/chains/evm/client/errors_test.go"
INFURA = "Infura, docs.metamask.io/services/how-to/avoid-rate-limiting"
ALCHEMY = "Alchemy, alchemy.com/docs/reference/optimism-error-codes"
QUICKNODE = "QuickNode, quicknode.com/docs/ethereum/error-references"
OURS = "keeper/chain/rpc.py: not the node speaks, but whoever stands before it"
CONTRACT = "geth and its kin: the words of a contract follow, whatever they are"

TABLE: tuple[Words, ...] = (
    Words(A.UNKNOWN, ", with http ", OURS),
    Words(A.UNKNOWN, "execution reverted", CONTRACT),
    Words(A.KNOWN, "already known", GETH),
    Words(A.KNOWN, "known transaction", BESU),
    Words(A.KNOWN, "already imported", ANVIL),
    Words(A.KNOWN, "alreadyknown", NETHERMIND),
    Words(A.KNOWN, "ownnoncealreadyused", NETHERMIND),
    Words(A.KNOWN, "existing txn with same hash", ERIGON),
    Words(A.KNOWN, "existing tx with same hash", ERIGON_OLD),
    Words(A.NONCE_TOO_LOW, "nonce too low", GETH_CORE),
    Words(A.NONCE_TOO_LOW, "nonce is too low", PARITY),
    Words(A.NONCE_TOO_LOW, "oldnonce", NETHERMIND),
    Words(A.NONCE_TOO_LOW, "invalid transaction nonce", ARBITRUM),
    Words(A.POOL_FULL, "txpool is full", GETH_POOL),
    Words(A.POOL_FULL, "future transaction tries to replace pending", GETH),
    Words(A.POOL_FULL, "account limit exceeded", GETH),
    Words(A.POOL_FULL, "in-flight transaction limit reached", GETH_POOL),
    Words(A.POOL_FULL, "sub-pool is full", ERIGON),
    Words(A.POOL_FULL, "spammer", ERIGON),
    Words(A.POOL_FULL, "too many transactions in the queue", PARITY),
    Words(A.POOL_FULL, "queue full", ARBITRUM),
    Words(A.POOL_FULL, "pending tx pool full", ARBITRUM),
    Words(A.POOL_FULL, "dropped due to l2 congestion", ARBITRUM),
    Words(A.RATE_LIMITED, "too many requests", INFURA),
    Words(A.RATE_LIMITED, "daily credit limit", INFURA),
    Words(A.RATE_LIMITED, "payment required", INFURA),
    Words(A.RATE_LIMITED, "request rate limited", INFURA),
    Words(A.RATE_LIMITED, "http 429", OURS),
    Words(A.RATE_LIMITED, "compute units per second", ALCHEMY),
    Words(A.RATE_LIMITED, "concurrent requests capacity", ALCHEMY),
    Words(A.RATE_LIMITED, "global transaction limit exceeded", ALCHEMY),
    Words(A.RATE_LIMITED, "requests per second", QUICKNODE),
    Words(A.NONCE_GAP, "nonce too high", GETH_CORE),
    Words(A.NONCE_GAP, "noncegap", NETHERMIND),
    Words(A.NONCE_GAP, "gapped-nonce tx", GETH_POOL),
    Words(A.NONCE_GAP, "nonce is too distant", BESU),
    Words(A.NONCE_GAP, "invalid transaction with a lower nonce", BESU),
    Words(A.REPLACEMENT_UNDERPRICED, "replacement transaction underpriced", GETH),
    Words(A.REPLACEMENT_UNDERPRICED, "could not replace existing tx", ERIGON),
    Words(A.REPLACEMENT_UNDERPRICED, "insufficient gas price to replace existing", ANVIL),
    Words(A.REPLACEMENT_UNDERPRICED, "another transaction with same nonce in the queue", PARITY),
    Words(A.REPLACEMENT_UNDERPRICED, "replacementnotallowed", NETHERMIND),
    Words(A.UNDERPRICED, "underpriced", GETH),
    Words(A.UNDERPRICED, "feetoolow", NETHERMIND),
    Words(A.UNDERPRICED, "fee too low", ERIGON),
    Words(A.UNDERPRICED, "below minimum required priority fee", RETH),
    Words(A.UNDERPRICED, "gas price below configured minimum", BESU),
    Words(A.UNDERPRICED, "does not satisfy your node's minimal gas price", PARITY),
    Words(A.UNDERPRICED, "gas price too low", ARBITRUM),
    Words(A.FEE_TOO_LOW, "less than block base fee", GETH_CORE),
    Words(A.FEE_TOO_LOW, "gas price below current base fee", BESU),
    Words(A.INSUFFICIENT_FUNDS, "insufficient funds", GETH_CORE),
    Words(A.INSUFFICIENT_FUNDS, "insufficientfunds", NETHERMIND),
    Words(A.INSUFFICIENT_FUNDS, "insufficient balance for trans", PARITY),
    Words(A.INSUFFICIENT_FUNDS, "upfront cost exceeds account balance", BESU),
    Words(A.INSUFFICIENT_FUNDS, "not enough funds for gas", ARBITRUM),
    Words(A.REFUSED, "intrinsic gas", GETH_CORE),
    Words(A.REFUSED, "intrinsicgas", ERIGON),
    Words(A.REFUSED, "gas uint64 overflow", GETH_CORE),
    Words(A.REFUSED, "exceeds block gas limit", GETH),
    Words(A.REFUSED, "gaslimitexceeded", NETHERMIND),
    Words(A.REFUSED, "exceeds max transaction gas limit", RETH),
    Words(A.REFUSED, "gas limit too high", RETH),
    Words(A.REFUSED, "gas limit is too high", ERIGON),
    Words(A.REFUSED, "exceeds current gas limit", PARITY),
    Words(A.REFUSED, "transaction gas is too low", PARITY),
    Words(A.REFUSED, "greater than the block gas limit", ANVIL),
    Words(A.REFUSED, "oversized data", GETH),
    Words(A.REFUSED, "rlptoolong", ERIGON),
    Words(A.REFUSED, "transaction is too big", PARITY),
    Words(A.REFUSED, "initcode size exceeded", GETH_CORE),
    Words(A.REFUSED, "negative value", GETH),
    Words(A.REFUSED, "invalid sender", GETH),
    Words(A.REFUSED, "invalid signature", BESU),
    Words(A.REFUSED, "sender not an eoa", GETH_CORE),
    Words(A.REFUSED, "sender is not an eoa", RETH),
    Words(A.REFUSED, "invalid chain id", RETH),
    Words(A.REFUSED, "wrong chainid", BESU),
    Words(A.REFUSED, "signed for another chain", ANVIL),
    Words(A.REFUSED, "transaction type not supported", RETH),
    Words(A.REFUSED, "invalid transaction type", BESU),
    Words(A.REFUSED, "higher than max fee per gas", GETH_CORE),
    Words(A.REFUSED, "exceeds max fee per gas", BESU),
    Words(A.REFUSED, "exceeds the configured cap", RETH),
    Words(A.REFUSED, "transaction fee cap exceeded", BESU),
    Words(A.REFUSED, "fee too high", OPTIMISM),
)
"""The first rows first: where one message holds several, what leaves bytes in flight outweighs a refusal."""


def read(words: str) -> Answer:
    """Say what a message means: by the first row that it holds, those that refuse behind all others."""
    said = words.lower()
    return next((each.answer for each in TABLE if each.words in said), Answer.UNKNOWN)


def outweighing(said: Sequence[T]) -> T:
    """Choose, of what several nodes said to the same bytes, what holds for all of them together.

    Who has the bytes outweighs who may have them, and either a refusal: refused they are only where all
    refuse. Of equals the first counts.
    """

    def weight(each: T) -> tuple[bool, bool]:
        answer = read(str(each))
        return answer in HAS, answer not in REFUSALS

    return max(said, key=weight)
