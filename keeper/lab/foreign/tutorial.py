"""A plain bot as tutorials write it, to compare with: a loop in web3.py, one account after the other.

At every block it asks each account's health, and where that is below 1 it builds a transaction, has its gas
estimated, sends it, waits for the receipt, and goes on to the next. It has no fast price, no journal and no
limits, sells nothing, and pays from tokens that it holds. It knows its accounts and their assets from a file,
as a bot would from an indexer: so what is compared is only how it goes about them.

Not part of the keeper, and imports nothing of it. Usage: python -m keeper.lab.foreign.tutorial SITE.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eth_account import Account
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractLogicError, Web3RPCError

WAD = 10**18
ALL = 2**256 - 1
POLL_S = 0.005


def say(line: str) -> None:
    """Tell whoever drives the chain."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Bot:
    """Looks after what a file lists."""

    def __init__(self, site: dict[str, Any]) -> None:
        self.site = site
        self.w3 = Web3(HTTPProvider(site["http"]))
        self.me = Account.from_key(site["key"])

    def contract(self, name: str, address: str) -> Any:
        abi = self.site["abis"][name]
        return self.w3.eth.contract(address=Web3.to_checksum_address(address), abi=abi)

    def run(self) -> None:
        last = -1
        while True:
            block = self.w3.eth.block_number
            if block == last:
                time.sleep(POLL_S)
                continue
            for account in self.site["accounts"]:
                call = CHECKS[account["protocol"]](self, account)
                if call is not None:
                    self.liquidate(call)
            last = block
            say(f"done {block}")

    def liquidate(self, call: Any) -> None:
        try:
            gas = call.estimate_gas({"from": self.me.address})
        except (ContractLogicError, Web3RPCError):
            return
        tx = call.build_transaction(
            {
                "from": self.me.address,
                "nonce": self.w3.eth.get_transaction_count(self.me.address),
                "gas": gas,
                "maxFeePerGas": 100 * 10**9,
                "maxPriorityFeePerGas": 5 * 10**8,
            }
        )
        tx_hash = self.w3.eth.send_raw_transaction(self.me.sign_transaction(tx).raw_transaction)
        say("waiting")
        self.w3.eth.wait_for_transaction_receipt(tx_hash, timeout=600, poll_latency=POLL_S)


def aave(bot: Bot, account: dict[str, Any]) -> Any:
    pool = bot.contract("aave", account["at"])
    health = pool.functions.getUserAccountData(account["owner"]).call()[5]
    if health >= WAD:
        return None
    pair = account["collateral"], account["debt"]
    return pool.functions.liquidationCall(*pair, account["owner"], ALL, False)


def venus(bot: Bot, account: dict[str, Any]) -> Any:
    comptroller = bot.contract("comptroller", account["at"])
    if not comptroller.functions.getAccountLiquidity(account["owner"]).call()[2]:
        return None
    borrowed = bot.contract("vtoken", account["debt"])
    owed = borrowed.functions.borrowBalanceStored(account["owner"]).call()
    return borrowed.functions.liquidateBorrow(account["owner"], owed // 2, account["collateral"])


def morpho(bot: Bot, account: dict[str, Any]) -> Any:
    blue = bot.contract("morpho", account["at"])
    _, shares, collateral = blue.functions.position(account["market"], account["owner"]).call()
    total = blue.functions.market(account["market"]).call()
    params = tuple(account["params"])
    price = bot.contract("oracle", params[2]).functions.price().call()
    owed = shares * total[2] // max(total[3], 1)
    if owed <= collateral * price // 10**36 * params[4] // WAD:
        return None
    return blue.functions.liquidate(params, account["owner"], 0, shares, b"")


def perp(bot: Bot, account: dict[str, Any]) -> Any:
    house = bot.contract("house", account["at"])
    balances = bot.contract("balances", account["balances"])
    required = balances.functions.getMarginRequirementForLiquidation(account["owner"]).call()
    if house.functions.getAccountValue(account["owner"]).call() >= required:
        return None
    return house.functions.liquidate(account["owner"], account["base"])


CHECKS: dict[str, Callable[[Bot, dict[str, Any]], Any]] = {
    "aave_v3": aave,
    "compound_v2": venus,
    "morpho_blue": morpho,
    "perp_curie": perp,
}

if __name__ == "__main__":
    Bot(json.loads(Path(sys.argv[1]).read_text())).run()
