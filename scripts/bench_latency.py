"""Time from a price to the wire: ``scripts/bench latency [--small] [--json [FILE]]``.

From before the first byte of a venue's message is written to its socket until the last byte of the signed
transaction has come out of the node's, both on the clock of this machine; in between a whole ``keeper run``
with 1,000,000 accounts, its journal on this disk (``keeper/lab/reaction.py``). ``wire-ready-1m``: the act of
the account was built and simulated after the last block. ``wire-any-1m``: it was not, and the node is asked
first. ``burst-500``: one price breaches 500 accounts at once, each act a transaction of its own; its row
tells of each transaction how long after the price it came, and the note when the last one did.

``floor`` is the least that Python takes on this machine: a process that hears the message, compares the
price, signs a transaction, keeps it and sends it, and nothing else (``keeper/lab/floor.py``).

``web3-loop`` is what a plain loop takes, as tutorials write them: it hears the same message on the same kind
of socket, reads 1,000 accounts of an Anvil one by one, computes the health of each, and builds, signs and
sends a flag for the worst. ``--small`` has 20,000 accounts. ``--stages`` measures nothing of this, and shows
where the time goes: when after the price each stage begins, and how long it takes.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

import orjson
import structlog
import uvloop
from eth_account import Account as Wallet
from rich.console import Console
from rich.table import Table
from web3 import HTTPProvider, Web3
from websockets.sync.client import connect

from keeper.lab.anvil import anvil
from keeper.lab.bench import ROOT, Row, arguments, report, row_of
from keeper.lab.crowd import PRICES_WAD, Crowd, gather
from keeper.lab.reaction import KEEPER, Reaction, least, rig
from keeper.lab.stages import parts_of, read_stages
from keeper.lab.wires import Venues
from keeper.protocols.hybrid.abi import artifact
from keeper.units import WAD

ACCOUNTS, SMALL = 1_000_000, 20_000
RUNGS = 64
ROUNDS = 8
BURST = 500
BURSTS = 3
LOOP_ACCOUNTS = 1_000
LOOPS = 3
MARGIN = 0.05
FLAG_GAS = 600_000
BTC = "BTC/USD"
READY_US, READY_P99_US = 2_000, 5_000
ANY_US, ANY_P99_US = 4_000, 8_000
TIMES = 100
"""How many times as long the plain loop takes at least."""


async def reactions(folder: Path, accounts: int) -> tuple[list[Row], dict[str, str]]:
    """Time a keeper with so many accounts."""
    ready, others, crashes = list[float](), list[float](), list[list[float]]()
    async with rig(folder, accounts=accounts, rungs=RUNGS, burst=BURST) as found:
        async for _ in found.descend():
            pass  # the first round fills caches
        for _ in range(ROUNDS):
            async for each in found.descend():
                (ready if each.was_ready else others).append(each.took_us)
        for _ in range(BURSTS):
            crashes.append(await found.crash())
    size = "1m" if accounts == ACCOUNTS else f"{accounts // 1000}k"
    rows = [
        row_of(f"wire-ready-{size}", accounts, ready).within(median_us=READY_US, p99_us=READY_P99_US),
        row_of(f"wire-any-{size}", accounts, others),
        row_of(f"burst-{BURST}", accounts, [us for took_us in crashes for us in took_us]),
    ]
    last = ", ".join(f"{max(took_us) / 1e3:,.1f}" for took_us in crashes)
    notes = {
        "reactions timed": f"{len(ready)} of ready accounts, {len(others)} of others",
        f"burst-{BURST}, ms until the last transaction": last,
    }
    return rows, notes


async def shown(folder: Path, accounts: int) -> None:
    """Print the stages on the way of ready accounts, and of others."""
    reactions = list[Reaction]()
    async with rig(folder, accounts=accounts, rungs=RUNGS, stages=True) as found:
        async for _ in found.descend():
            pass
        for _ in range(ROUNDS):
            reactions += [each async for each in found.descend()]
    spans = read_stages(folder)
    for was_ready, whose in ((True, "ready accounts"), (False, "others")):
        ways = [(each.price_ns, each.wire_ns) for each in reactions if each.was_ready == was_ready]
        took_us = median((wire_ns - price_ns) / 1e3 for price_ns, wire_ns in ways)
        table = Table(title=f"{whose}: {len(ways)} x {took_us:,.0f} us", title_justify="left", box=None)
        table.add_column("stage", no_wrap=True)
        for heading in ("times", "begins after us", "takes us"):
            table.add_column(heading, justify="right", no_wrap=True)
        for part in parts_of(spans, ways):
            table.add_row(part.stage, f"{part.times}", f"{part.after_us:,.0f}", f"{part.took_us:,.0f}")
        Console().print(table)


async def bare(folder: Path) -> Row:
    """Time the least that Python takes for it on this machine."""
    took_us = [us async for us in least(folder, RUNGS * (1 + ROUNDS))]
    return row_of("floor", 0, took_us[RUNGS:])


def looped() -> Row:
    """Time the plain loop."""
    start_s = int(time.time())
    with anvil(timestamp_s=start_s) as node, venue() as (url, say):
        crowd = gather(node, most=LOOP_ACCOUNTS, start_s=start_s + 10)
        crowd.grow(LOOP_ACCOUNTS)
        node.fund([KEEPER.address])
        bot = Loop(crowd)
        times_us = []
        with connect(url) as socket:
            socket.send('{"method":"subscribe"}')
            while '"success":true' not in socket.recv():
                pass
            heard = (message for message in socket if '"ticker"' in message)
            for number in range(1 + LOOPS):
                began_ns = say(19_900 - number)
                bot.react(str(next(heard)))
                times_us.append((time.monotonic_ns() - began_ns) / 1e3)
    return row_of("web3-loop", LOOP_ACCOUNTS, times_us[1:])


class Loop:
    """A liquidation bot as tutorials write them, for the flags of HybridMargin."""

    def __init__(self, crowd: Crowd) -> None:
        self._web3 = Web3(HTTPProvider(crowd.node.http_url))
        protocol = crowd.deployed.protocol
        self._keys = crowd.keys(LOOP_ACCOUNTS)
        self._clearing = self._contract("Clearing", protocol.clearing)
        self._liquidator = self._contract("Liquidator", protocol.liquidator)
        self._markets = {number: feed for feed, number in crowd.deployed.perps.items()}
        self._prices = {feed: price_wad / WAD for feed, price_wad in PRICES_WAD.items()}
        self._wallet = Wallet.from_key(KEEPER.key)

    def _contract(self, name: str, address: str) -> Any:
        return self._web3.eth.contract(address=Web3.to_checksum_address(address), abi=artifact(name)["abi"])

    def react(self, message: str) -> None:
        """Read a price, look at everybody, and flag the worst."""
        [ticker] = orjson.loads(message)["data"]
        self._prices[ticker["symbol"]] = float(ticker["bid"])
        worst = min(self._keys, key=self._health)
        transaction = self._liquidator.functions.flag(worst, []).build_transaction(
            {
                "from": self._wallet.address,
                "nonce": self._web3.eth.get_transaction_count(self._wallet.address, "pending"),
                "gas": FLAG_GAS,
            }
        )
        signed = self._wallet.sign_transaction(transaction)
        self._web3.eth.send_raw_transaction(signed.raw_transaction)

    def _health(self, key: bytes) -> float:
        """Return equity over requirement."""
        cash, positions, balances = self._clearing.functions.account(key).call()
        equity: float = cash / WAD + sum(amount / WAD * self._prices["ETH/USD"] for _, amount in balances)
        required = 0.0
        for market, size, quote in positions:
            value = size / WAD * self._prices[self._markets[market]]
            equity += value + quote / WAD
            required += abs(value) * MARGIN
        return equity / required


@contextmanager
def venue() -> Iterator[tuple[str, Any]]:
    """Have a venue in a thread of its own; yield its URL, and what makes it say a price of BTC."""
    ready = SimpleQueue[Any]()
    ending = asyncio.Event()

    async def serve() -> None:
        async with Venues() as venues:
            ready.put((asyncio.get_running_loop(), venues))
            await ending.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, venues = ready.get()

    def say(price: float) -> int:
        began_ns: int = asyncio.run_coroutine_threadsafe(venues.say("kraken", BTC, f"{price}"), loop).result()
        return began_ns

    try:
        yield venues.urls["kraken"], say
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()


def main() -> None:
    """Measure the keeper, then the loop."""
    chosen = arguments(
        __doc__ or "", small=f"with {SMALL:,} accounts", stages="show where the time goes instead"
    )
    accounts = SMALL if chosen.small else ACCOUNTS
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix="bench-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        if chosen.stages:
            runner.run(shown(Path(folder), accounts))
            return
        rows, notes = runner.run(reactions(Path(folder), accounts))
        rows.append(runner.run(bare(Path(folder))))
    loop = looped()
    rows[1] = rows[1].against(loop).within(median_us=ANY_US, p99_us=ANY_P99_US, ratio=TIMES)
    report("From a price to the wire: us", [*rows, loop], json_path=chosen.json, notes=notes)


if __name__ == "__main__":
    main()
