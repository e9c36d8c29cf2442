"""All that the chain says about a finished drill, read back block by block for the audit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keeper.chain.wire import data, log_of, quantity
from keeper.domain import Account, Call, Fact, Log, OracleView
from keeper.errors import ChainFault
from keeper.lab.anvil import Node
from keeper.lab.deploy import AGGREGATOR_DECIMALS, Deployed, function_of
from keeper.lab.world import World
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.rows import accounts_of
from keeper.units import AccountKey, Block, FeedId, UnixS, Wad, Wei

MOST_TRACED = 100
"""Failed transactions that are run again to learn why: each costs its whole block."""
NOT_TRACED = "others, not traced"
PAGE = 100
"""Accounts in one bulk read."""
INSURED = frozenset({"InsurancePaid", "BadDebt"})
"""What is told of an account when the insurance is asked to pay for it."""
SOCIALISED = "LossSocialised"
"""Changes the quote leg of everyone with a position in its market, and names none of them."""


@dataclass(frozen=True, slots=True)
class SlowRound:
    """A round of a slow feed, at its place among the logs of its block."""

    block: Block
    log_index: int
    feed: FeedId
    price_wad: Wad
    updated_at_s: UnixS


@dataclass(frozen=True, slots=True)
class Spent:
    """What one transaction of the keeper cost."""

    block: Block
    tx_hash: str
    gas_wei: Wei
    revert: str | None
    """Why it failed, in the contract's words; None where it did not."""


@dataclass(frozen=True, slots=True)
class Chronicle:
    """Events, prices and account states of blocks ``first`` (the set-up's last) to ``last``."""

    first: Block
    last: Block
    timestamps: Mapping[Block, UnixS]
    facts: tuple[Fact, ...]
    rounds: tuple[SlowRound, ...]
    views: Mapping[Block, OracleView]
    """Prices, risk arrays, and what the protocol says of itself, after each block."""
    spent: tuple[Spent, ...]
    calldata: Mapping[str, bytes]
    """Of the transactions that closed a slice."""
    drawable_wad: Mapping[tuple[Block, AccountKey], Wad]
    """What the insurance could pay for an account before a block in which it was asked to."""
    _states: Mapping[AccountKey, tuple[tuple[Block, ...], tuple[Account, ...]]]

    def accounts(self) -> tuple[AccountKey, ...]:
        """Return every account that anything happened to."""
        return tuple(self._states)

    def at(self, key: AccountKey, block: Block) -> Account:
        """Return an account as it was after a block."""
        blocks, states = self._states[key]
        return states[bisect_right(blocks, block) - 1]

    def changed(self, block: Block) -> Iterable[Account]:
        """Return the accounts that a block touched, as they were after it."""
        facts = self.facts_of(block)
        shared = any(fact.act == SOCIALISED for fact in facts)
        touched = (key for fact in facts for key in fact.touched)
        for key in dict.fromkeys(self._states if shared else touched):
            yield self.at(key, block)

    def facts_of(self, block: Block) -> tuple[Fact, ...]:
        """Return what happened in one block, in order."""
        low = bisect_right(self.facts, block - 1, key=lambda fact: fact.block)
        high = bisect_right(self.facts, block, key=lambda fact: fact.block)
        return self.facts[low:high]

    def of(self, act: str) -> tuple[Fact, ...]:
        """Return all events of one name."""
        return tuple(fact for fact in self.facts if fact.act == act)


def read(node: Node, world: World, first: Block, last: Block) -> Chronicle:
    """Read a whole drill back."""
    deployed = world.deployed
    market = HybridMarket(deployed.protocol)
    logs = _logs(node, deployed, first + 1, last)
    facts = tuple(fact for log in logs if (fact := market.decode(log)) is not None)
    blocks = range(first, last + 1)
    headers = node.batch([("eth_getBlockByNumber", (hex(block), False)) for block in blocks])
    prices = _calls(node, [(market.prices_call(), block) for block in blocks])
    insured = sorted({(fact.block, fact.args["account"]) for fact in facts if fact.act in INSURED})
    limit, backstop = function_of("Backstop", "drawableBy"), deployed.protocol.backstop
    drawable = _calls(node, [(limit.call(backstop, account), block - 1) for block, account in insured])
    slices = list(dict.fromkeys(fact.tx_hash for fact in facts if fact.act == "Tranche"))
    sent = node.batch([("eth_getTransactionByHash", (tx_hash,)) for tx_hash in slices])
    return Chronicle(
        first=first,
        last=last,
        timestamps={quantity(header["number"]): quantity(header["timestamp"]) for header in headers},
        facts=facts,
        rounds=_rounds(logs, deployed),
        views={block: market.decode_prices(raw) for block, raw in zip(blocks, prices, strict=True)},
        spent=_spent(node, world.keeper.address, first + 1, last),
        calldata={tx["hash"]: data(tx["input"]) for tx in sent},
        drawable_wad=dict(zip(insured, map(codec.decode_amount, drawable), strict=True)),
        _states=_states(node, market, world.accounts, facts, first),
    )


def _logs(node: Node, deployed: Deployed, first: Block, last: Block) -> list[Log]:
    addresses = [*deployed.protocol.contracts, *deployed.aggregators.values()]
    asked = {"address": addresses, "fromBlock": hex(first), "toBlock": hex(last)}
    found = [log_of(raw) for raw in node.rpc("eth_getLogs", asked)]
    return sorted(found, key=lambda log: (log.block_number, log.index))


def _rounds(logs: Iterable[Log], deployed: Deployed) -> tuple[SlowRound, ...]:
    feeds = {address: feed for feed, address in deployed.aggregators.items()}
    event = load("TestAggregator").events["AnswerUpdated"]
    rounds = []
    for log in logs:
        if log.address in feeds and log.topics[0] == event.topic:
            answer, _, updated_at = event.values(log.topics, log.data)
            price = answer * 10 ** (18 - AGGREGATOR_DECIMALS)
            rounds.append(SlowRound(log.block_number, log.index, feeds[log.address], price, updated_at))
    return tuple(rounds)


def _calls(node: Node, calls: Sequence[tuple[Call, Block]]) -> list[bytes]:
    found = node.batch(
        [("eth_call", ({"to": call.to, "data": "0x" + call.data.hex()}, hex(block))) for call, block in calls]
    )
    return [data(raw) for raw in found]


def _spent(node: Node, sender: str, first: Block, last: Block) -> tuple[Spent, ...]:
    pages: list[list[dict[str, Any]]] = node.batch(
        [("eth_getBlockReceipts", (hex(block),)) for block in range(first, last + 1)]
    )
    sent = [receipt for page in pages for receipt in page if receipt["from"] == sender]
    failed = [receipt["transactionHash"] for receipt in sent if receipt["status"] != "0x1"]
    reverts = dict.fromkeys(failed, NOT_TRACED)
    every = -(-len(failed) // MOST_TRACED) or 1
    reverts |= dict(zip(failed[::every], node.reverts(failed[::every]), strict=True))
    return tuple(
        Spent(
            quantity(receipt["blockNumber"]),
            receipt["transactionHash"],
            quantity(receipt["gasUsed"]) * quantity(receipt["effectiveGasPrice"]),
            reverts.get(receipt["transactionHash"]),
        )
        for receipt in sent
    )


def _states(
    node: Node, market: HybridMarket, known: Sequence[AccountKey], facts: Sequence[Fact], first: Block
) -> dict[AccountKey, tuple[tuple[Block, ...], tuple[Account, ...]]]:
    """Read every account at ``first``, and again after each block that touched it."""
    everyone = list(dict.fromkeys([*known, *(key for fact in facts for key in fact.touched)]))
    touched: dict[Block, dict[AccountKey, None]] = {}
    for fact in facts:
        keys = everyone if fact.act == SOCIALISED else fact.touched
        touched.setdefault(fact.block, {}).update(dict.fromkeys(keys))
    asked = [(first, everyone), *((block, list(keys)) for block, keys in sorted(touched.items()) if keys)]
    pages = [(block, keys[i : i + PAGE]) for block, keys in asked for i in range(0, len(keys), PAGE)]
    answers = _calls(node, [(market.rows_call(keys), block) for block, keys in pages])
    found: dict[AccountKey, tuple[list[Block], list[Account]]] = {key: ([], []) for key in everyone}
    for (block, keys), answer in zip(pages, answers, strict=True):
        for key, account in zip(keys, accounts_of(answer), strict=True):
            if account.key != key:
                raise ChainFault(f"expected the row of account {key.hex()}, found {account.key.hex()}")
            blocks, states = found[key]
            blocks.append(block)
            states.append(account)
    return {key: (tuple(blocks), tuple(states)) for key, (blocks, states) in found.items()}
