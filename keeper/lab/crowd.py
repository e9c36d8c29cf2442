"""Thousands of accounts with positions on a throw-away chain, within seconds: what reading them is timed on.

They belong to one contract, ``contracts/demo/Crowd.sol``, and trade among themselves; each deposit and trade
is one that the contracts accept.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_abi.abi import encode

from keeper.lab.anvil import Node, Tx
from keeper.lab.deploy import QUOTE, Deployed, created_address, deploy, function_of
from keeper.lab.world import fast_prices, reporters
from keeper.protocols.hybrid.abi import artifact
from keeper.units import WAD, AccountKey, UnixS, Wad

PRICES_WAD = {"BTC/USD": 20_000 * WAD, "ETH/USD": 1_500 * WAD, "SYN/USD": 25 * WAD}
SYMBOL = "WETH"
CASH_WAD: Wad = 1_000 * WAD
AMOUNT_WAD: Wad = WAD // 10
POSITIONS = len(PRICES_WAD) + 1
"""Of each account: a leg in every market, and one collateral."""
PER_TX = 20
TX_GAS = 40_000_000
PER_BLOCK = 600
"""Accounts opened in a block."""


@dataclass(slots=True)
class Crowd:
    """The contract that owns the accounts, and how many there are."""

    node: Node
    deployed: Deployed
    address: str
    size: int = 0

    def keys(self, count: int) -> list[AccountKey]:
        """Return the first so many accounts."""
        owner = bytes.fromhex(self.address[2:])
        return [owner + number.to_bytes(12) for number in range(count)]

    def grow(self, size: int) -> None:
        """Open accounts until there are so many; an even number."""
        signers = [reporter.key for reporter in reporters(seed=1)]
        function = function_of("Crowd", "open")
        token, markets = self.deployed.tokens[SYMBOL], [self.deployed.perps[feed] for feed in PRICES_WAD]
        terms = (CASH_WAD, token, AMOUNT_WAD, markets, list(PRICES_WAD.values()))
        while self.size < size:
            last = min(self.size + PER_BLOCK, size)
            calls = [
                function.call(self.address, first, min(first + PER_TX, last), *terms)
                for first in range(self.size, last, PER_TX)
            ]
            now_s = self.node.timestamp_s() + 1
            prices = fast_prices(self.deployed, signers, PRICES_WAD, now_s)
            opening = [Tx(self.deployed.admin, call.to, call.data, TX_GAS) for call in calls]
            self.node.run([prices, *opening], now_s)
            self.size = last


def gather(node: Node, *, most: int, start_s: UnixS) -> Crowd:
    """Deploy HybridMargin, and a crowd with the means for ``most`` accounts, of which none is open yet."""
    deployed = deploy(node, signers=[each.address for each in reporters(seed=1)], timestamp_s=start_s)
    creation = bytes.fromhex(artifact("Crowd")["bytecode"][2:])
    sender = "0x" + "c0" * 20
    address = created_address(sender, 0)
    node.fund([sender])
    node.run([Tx(sender, None, creation + encode(["address"], [deployed.protocol.clearing]))], start_s + 1)
    given = {QUOTE: 2 * most * CASH_WAD, SYMBOL: 2 * most * AMOUNT_WAD}
    keys = [reporter.key for reporter in reporters(seed=1)]
    node.run(
        [
            *(tx for symbol, amount in given.items() for tx in deployed.mint(symbol, amount)),
            *(deployed.give_credit(symbol, amount, address) for symbol, amount in given.items()),
            *(deployed.slow_round(feed, price) for feed, price in PRICES_WAD.items()),
            fast_prices(deployed, keys, PRICES_WAD, start_s + 2),
            *(deployed.prove(feed) for feed in PRICES_WAD),
        ],
        start_s + 2,
    )
    return Crowd(node, deployed, address)
