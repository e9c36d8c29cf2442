"""Time how accounts are read into the mirror: ``scripts/bench sync [--large] [--json [FILE]]``.

On one Anvil, with accounts of four positions each: the keeper's own bulk read, folded into its book, against
the usual ways of reading the same four views (state, positions, alarm and slope): with web3 one by one, many
at a time, or through Multicall3, and with multicall.py. What is slow is read for fewer accounts. Each case is
told twice: by the time that passes, the node's work included, and by the processor time of the reading
process alone.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import structlog
import uvloop
from eth_account import Account as Wallet
from web3 import AsyncHTTPProvider, AsyncWeb3, HTTPProvider, Web3

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.desk.hybrid import HybridDesk, Params
from keeper.domain import Quote, Unknown
from keeper.execute.keys import LocalSigner
from keeper.execute.sender import ChainSender
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal
from keeper.lab.anvil import anvil
from keeper.lab.bench import ROOT, Row, arguments, report, row_of
from keeper.lab.crowd import POSITIONS, PRICES_WAD, Crowd, gather
from keeper.lab.world import person
from keeper.pipeline import PAGE, Pipeline
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.abi import artifact, load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.rows import HybridRows
from keeper.state.book import Book
from keeper.units import AccountKey

SIZES = (1_000, 10_000)
LARGE = 50_000
PASSES = 5
SLOW_PASSES = 3
WARM_UP = 3
BLOCKS = 40
NOWHERE = "0x" + "4e" * 20
"""Where there is no MarginReader."""
MULTICALL = "0x" + "3c" * 20
VIEWS = (("Clearing", "status"), ("Clearing", "account"), ("Slopes", "slopeChoice"), ("Liquidator", "flagOf"))
"""What ``MarginReader.rows`` asks of each account."""
AT_ONCE = 64
"""Requests under way at the same time, in the asynchronous case."""
PER_MULTICALL = 100
"""Accounts in one Multicall3."""
WAYS = {"web3-per-call": 40, "web3-async-gather": 100, "web3-multicall3": 1_000, "multicall.py": 400}
"""The baselines, and for how many accounts they are timed at most."""
OWN_ENVIRONMENT = ROOT / ".cache" / "multicall" / "venv" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Times:
    """What passes of one case took, in microseconds an account."""

    passed_us: list[float]
    own_us: list[float]

    def rows(self, case: str, n: int) -> tuple[Row, Row]:
        """Tell the time that passed, and the processor time of one's own."""
        return row_of(case, n, self.passed_us), row_of(f"{case}, own CPU", n, self.own_us)


class CountingPool(Pool):
    """Keeps what was asked: one entry for each HTTP request."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(urls)
        self.asked: list[str] = []

    async def request(self, method: str, params: list[Any]) -> Any:
        self.asked.append(method)
        return await super().request(method, params)

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        if calls:
            count = f"{len(calls)} x " if len(calls) > 1 else ""
            self.asked.append(count + calls[0][0])
        return await super().batch(calls)


class Calm:
    """A feed on which nothing moves."""

    def latest(self, now_s: int) -> dict[str, Quote | Unknown]:
        return {feed: Quote(feed, price, now_s) for feed, price in PRICES_WAD.items()}


class Readers:
    """Everything that reads, on one loop of the kind that the keeper runs on."""

    def __init__(self, crowd: Crowd, runner: asyncio.Runner) -> None:
        self.crowd = crowd
        self._run = runner.run
        deployment = crowd.deployed.protocol
        self.market = HybridMarket(deployment)
        self.book = Book(HybridRows(0, 0))
        self.pool = CountingPool([crowd.node.http_url])
        self._reader = ChainReader(self.pool, [crowd.node.ws_url], [])
        self._lent = HybridMarket(replace(deployment, reader=NOWHERE))
        creation = codec.reader_creation(deployment.clearing, deployment.liquidator)
        self._run(self._reader.lend(NOWHERE, creation))
        addresses = {"Clearing": deployment.clearing, "Liquidator": deployment.liquidator,
                     "Slopes": deployment.slopes}  # fmt: skip
        self.targets = {name: Web3.to_checksum_address(address) for name, address in addresses.items()}
        self._web3 = Web3(HTTPProvider(crowd.node.http_url))
        self._async_web3 = AsyncWeb3(AsyncHTTPProvider(crowd.node.http_url))
        self._block = self._web3.eth.block_number
        self._contracts = {name: self._of(self._web3, contract) for contract, name in VIEWS}
        self._views = [contract.functions[name] for name, contract in self._contracts.items()]
        self._async_views = [self._of(self._async_web3, contract).functions[name] for contract, name in VIEWS]
        multicall = self._web3.eth.contract(
            address=Web3.to_checksum_address(MULTICALL), abi=artifact("Multicall")["abi"]
        )
        self._aggregate = multicall.functions.aggregate3

    def _of(self, web3: Any, contract: str) -> Any:
        return web3.eth.contract(address=self.targets[contract], abi=artifact(contract)["abi"])

    def ours(self, keys: Sequence[AccountKey], market: HybridMarket | None = None) -> None:
        """Read accounts in pages and fold them into a new book."""
        market = market or self.market
        book = Book(market.shape)

        async def read() -> None:
            head = await self.pool.request("eth_getBlockByNumber", ["latest", False])
            calls = [market.rows_call(keys[first : first + PAGE]) for first in range(0, len(keys), PAGE)]
            for page in await self._reader.call_many(calls, head["hash"]):
                book.fold_rows(page, self._block)

        self._run(read())
        self.book = book

    def without_reader(self, keys: Sequence[AccountKey]) -> None:
        """Do the same as if no MarginReader were deployed."""
        self.ours(keys, self._lent)

    def per_call(self, keys: Sequence[AccountKey]) -> list[Any]:
        """Ask for each view of each account by itself, one after the other."""
        return [[view(key).call(block_identifier=self._block) for view in self._views] for key in keys]

    def gathered(self, keys: Sequence[AccountKey]) -> list[Any]:
        """Ask for each view of each account by itself, many at the same time."""

        async def read() -> list[Any]:
            gate = asyncio.Semaphore(AT_ONCE)

            async def one(view: Any, key: AccountKey) -> Any:
                async with gate:
                    return await view(key).call(block_identifier=self._block)

            return await asyncio.gather(*(one(view, key) for key in keys for view in self._async_views))

        return self._run(read())

    def multicalled(self, keys: Sequence[AccountKey]) -> list[Any]:
        """Ask for many views in one call, encoded and decoded by web3."""
        found = []
        for first in range(0, len(keys), PER_MULTICALL):
            calls = [
                (contract.address, False, contract.encode_abi(name, args=[key]))
                for key in keys[first : first + PER_MULTICALL]
                for name, contract in self._contracts.items()
            ]
            answers = self._aggregate(calls).call(block_identifier=self._block)
            names = cycle(self._contracts)
            found += [
                self._web3.codec.decode(OUTPUTS[name], answer)
                for name, (_, answer) in zip(names, answers, strict=False)
            ]
        return found

    def multicall_py(self, keys: Sequence[AccountKey]) -> Times:
        """Have multicall.py read in its own environment, with the web3 that it needs."""
        asked = {
            "url": self.crowd.node.http_url,
            "chain_id": self.crowd.node.chain_id,
            "multicall": Web3.to_checksum_address(MULTICALL),
            "views": [[self.targets[contract], signature_of(contract, name)] for contract, name in VIEWS],
            "keys": [key.hex() for key in keys],
            "passes": SLOW_PASSES,
        }
        program = Path(__file__).with_name("read_by_multicall.py")
        done = subprocess.run(
            [str(OWN_ENVIRONMENT), str(program)],
            input=json.dumps(asked), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return Times(**json.loads(done.stdout))

    async def close(self) -> None:
        await self.pool.close()
        await self._async_web3.provider.disconnect()


def steady(crowd: Crowd, runner: asyncio.Runner) -> tuple[Row, Counter[str]]:
    """Follow blocks in which nothing of the deployment happens, as the keeper does; count what it asks."""
    node, market = crowd.node, HybridMarket(crowd.deployed.protocol)
    wallet = person(1, "keeper")
    asked: Counter[str] = Counter()
    own_us: list[float] = []

    async def follow(journal: SqliteJournal, pool: CountingPool) -> None:
        reader = ChainReader(pool, [node.ws_url], market.deployment.contracts)
        sender = ChainSender(pool, journal, LocalSigner(Wallet.from_key(wallet.key)), chain_id=node.chain_id)
        desk = HybridDesk(sender.address, wallet.account, Params("ETH/USD"))
        pipeline = Pipeline(
            reader=reader, market=market, desk=desk, feed=Calm(), journal=journal, sender=sender
        )
        await pipeline.discover(0, await reader.start())
        updates = reader.updates()
        try:
            await pipeline.on_update(await anext(updates))
            while not reader.listening:  # noqa: ASYNC110 nothing announces it
                await asyncio.sleep(0.01)
            for number in range(WARM_UP + BLOCKS):
                node.mine()
                pool.asked.clear()
                began_ns = time.process_time_ns()
                await pipeline.on_update(await anext(updates))
                if number >= WARM_UP:
                    own_us.append((time.process_time_ns() - began_ns) / 1e3)
                    asked.update(pool.asked)
        finally:
            await reader.close()
            await pool.close()

    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder, "journal"), identity={"bench": "sync"}, limits=Limits())
        runner.run(follow(journal, CountingPool([node.http_url])))
        journal.close()
    return row_of("a block without news, own CPU, us per block", crowd.size, own_us), asked


OUTPUTS = {name: load(contract).functions[name].outputs for contract, name in VIEWS}


def signature_of(contract: str, name: str) -> str:
    """Return a view as multicall.py names it: its inputs, then its outputs."""
    function = load(contract).functions[name]
    return f"{name}({','.join(function.inputs)})({','.join(function.outputs)})"


def timed_by_both(work: Callable[[], object], *, passes: int, per: int) -> Times:
    """Do the work so often and once more before, which does not count."""
    times = Times([], [])
    work()
    for _ in range(passes):
        began_ns, own_ns = time.perf_counter_ns(), time.process_time_ns()
        work()
        times.own_us.append((time.process_time_ns() - own_ns) / 1e3 / per)
        times.passed_us.append((time.perf_counter_ns() - began_ns) / 1e3 / per)
    return times


def measure(readers: Readers, n: int) -> list[Row]:
    """Time every way at one size."""
    keys = readers.crowd.keys(n)
    ours = timed_by_both(lambda: readers.ours(keys), passes=PASSES, per=n).rows("ours", n)
    without = timed_by_both(lambda: readers.without_reader(keys), passes=PASSES, per=n)
    works = {
        "web3-per-call": readers.per_call,
        "web3-async-gather": readers.gathered,
        "web3-multicall3": readers.multicalled,
    }
    rows = [*without.rows("ours, no reader deployed", n)]
    for way, most in WAYS.items():
        some = keys[: min(n, most)]
        if way in works:
            work = works[way]
            times = timed_by_both(lambda: work(some), passes=SLOW_PASSES, per=len(some))  # noqa: B023
        else:
            times = readers.multicall_py(some)
        for mine, theirs in zip(ours, times.rows(way, len(some)), strict=True):
            rows += [theirs, mine.against(theirs)]
    check(readers, keys)
    return rows


def check(readers: Readers, keys: Sequence[AccountKey]) -> None:
    """Hold the book against what web3 reads of a few accounts."""
    if len(readers.book) != len(keys):
        raise AssertionError(f"expected {len(keys)} accounts in the book, found {len(readers.book)}")
    for key in (keys[0], keys[len(keys) // 2], keys[-1]):
        _, (cash, positions, balances), *_ = readers.per_call([key])[0]
        exact = readers.book.exact(key)
        if isinstance(exact, Unknown) or len(positions) + len(balances) != POSITIONS:
            raise AssertionError(f"0x{key.hex()}: {exact}, {positions}, {balances}")
        legs = [(leg.market, leg.size_wad, leg.quote_leg_wad) for leg in exact.legs]
        held = [(each.collateral, each.amount_wad) for each in exact.holdings]
        if (exact.cash_wad, legs, held) != (cash, [*map(tuple, positions)], [*map(tuple, balances)]):
            raise AssertionError(f"0x{key.hex()}: the book has {exact}, the chain {positions}, {balances}")


def main() -> None:
    """Measure every size, the small ones first."""
    chosen = arguments(__doc__ or "", large=f"read {LARGE:,} accounts as well")
    sizes = (*SIZES, LARGE) if chosen.large else SIZES
    rows, notes = list[Row](), dict[str, str]()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    start_s = int(time.time())
    with (
        anvil(timestamp_s=start_s) as node,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        crowd = gather(node, most=max(sizes), start_s=start_s + 10)
        node.rpc("anvil_setCode", MULTICALL, artifact("Multicall")["deployedBytecode"])
        for n in sizes:
            crowd.grow(n)
            readers = Readers(crowd, runner)
            try:
                rows += measure(readers, n)
            finally:
                runner.run(readers.close())
            row, asked = steady(crowd, runner)
            rows.append(row)
            told = ", ".join(f"{count / BLOCKS:.2f} of {what}" for what, count in asked.items())
            notes[f"{n:,} accounts, a block without news"] = (
                f"{asked.total() / BLOCKS:.2f} requests: {told}; {row.median_us / 1e3:.1f} ms own CPU"
            )
    title = f"Reading accounts of {POSITIONS} positions: us per account"
    report(title, rows, json_path=chosen.json, notes=notes)


if __name__ == "__main__":
    main()
