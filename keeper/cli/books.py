"""Where a question to the risk engine has its book from: a file, a keeper's disk, or the chain as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop

from keeper import progress
from keeper.cli.bookfile import read_portfolios
from keeper.cli.output import log_to_nobody
from keeper.cli.parts import PROTOCOLS, Parts, connected
from keeper.cli.why import taped_scene
from keeper.config import Config, load
from keeper.domain import Head, OracleView, Quote
from keeper.errors import ConfigError
from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.pipeline import Shelf
from keeper.ports import Market
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.risk.holdings import Held, Portfolios, linear
from keeper.risk.margin import Book
from keeper.risk.marks import Marks
from keeper.state.archive import stamp_of
from keeper.state.book import Book as Accounts
from keeper.trigger.distance import Quotes
from keeper.trigger.mirrored import Mirrored
from keeper.units import WAD, AccountKey, UnixS

BookFile = Annotated[Path | None, typer.Argument(help="A book as JSON; docs/risk/margin.md says how.")]
Deployed = Annotated[
    Path | None,
    typer.Option("--config", help="In place of a file, the deployment of this configuration, from its node."),
]
Snapshot = Annotated[
    bool,
    typer.Option(
        "--snapshot", help="With --config, ask no node: the keeper's book on disk, at the journal's prices."
    ),
]
GridName = Annotated[str, typer.Option("--margin", help="What margins a file's book: paradex24 and others.")]


@dataclass(frozen=True, slots=True)
class Source:
    """A book, and what is to be said of where it comes from."""

    held: Held
    told: Mapping[str, Any]
    """``book``, and of a deployment its ``block`` and how many accounts were ``left_out``."""
    fund: float | None = None
    """What its insurance holds, in quote, where it says that itself."""
    legs: Callable[..., Book] | None = None
    """Of a deployment with perps: what accounts hold of them and of options, with ``collateral`` or not."""

    @property
    def positions(self) -> Book:
        """Its instruments and what accounts hold of them; of loans what it comes to in each asset.

        Raises ConfigError as ``protocols.hybrid.holdings.described``.
        """
        if isinstance(self.held, Portfolios):
            return self.held.book
        return linear(self.held) if self.legs is None else self.legs(collateral=True)

    @property
    def margined(self) -> Book:
        """What a venue would margin: perps and options, and no collateral. Raises ConfigError for loans."""
        if isinstance(self.held, Portfolios):
            return self.held.book
        if self.legs is None:
            raise ConfigError(
                f"{self.told['book']}: margin is asked of perps and options, and these are loans"
            )
        return self.legs(collateral=False)

    @property
    def words(self) -> str:
        """Say it to a person."""
        if "block" not in self.told:
            return str(self.told["book"])
        left = self.told["left_out"]
        without = f"; {left} accounts cannot be judged and are left out" if left else ""
        return f"{self.told['book']} at block {self.told['block']}{without}"


def open_book(
    file: Path | None,
    config: Path | None,
    *,
    snapshot: bool = False,
    dry_run: bool = False,
    grid: str = "span16",
    judged: bool = True,
) -> Source:
    """Open a book from wherever the command line says.

    ``dry_run`` means the book and journal of a keeper that rehearses. ``judged`` asks for the equity of every
    account, without which nobody knows who is in breach; a deployment always has it.

    Raises ConfigError where not one source is named, and as each of them does.
    """
    if (file is None) == (config is None):
        raise ConfigError("name one book: a file, or --config with the deployment of a configuration")
    if file is not None:
        if snapshot or dry_run:
            raise ConfigError("--snapshot and --dry-run are of a configuration: name one with --config")
        return Source(read_portfolios(file, grid, judged=judged), {"book": str(file)})
    assert config is not None  # one of both
    log_to_nobody()
    settings = load(config)
    shelf = settings.shelf(dry_run=dry_run)
    if not snapshot:
        return uvloop.run(_live(settings, shelf))
    return asyncio.run(_kept(settings, shelf, settings.journal_place(dry_run=dry_run)))


# --- of a deployment -----------------------------------------------------------------------------


async def _kept(config: Config, shelf: Shelf, journal: Path | Shared) -> Source:
    """Return the keeper's book on disk, at the prices that its journal has of the head nearest before."""
    if not shelf.path.exists():
        found = f"the book {shelf.path} is not there"
        raise ConfigError(f"{found}: a keeper writes it as it runs; without --snapshot the node is asked")
    block, _ = stamp_of(shelf.path)
    with closing(JournalReader(journal)) as reader:
        scene = await taped_scene(reader, block)
    if isinstance(scene, str):
        raise ConfigError(f"the prices of block {block}, at which {shelf.path} was read: {scene}")
    shape = scene.market.shape
    book, _ = Accounts.load(shelf.path, shape, chain_id=shelf.chain_id, deployment=shelf.deployment)
    return _source(config, scene.market, book, scene.world, scene.head)


async def _live(config: Config, shelf: Shelf) -> Source:
    """Read every account at the newest head; whom events since the book on disk named, too."""
    kind = PROTOCOLS[config.deployment.protocol]
    async with connected(config, kind.find) as parts:
        market, head, reader = parts.market, parts.head, parts.reader
        known, pages = await _known(parts, shelf), kind.page
        calls = [market.rows_call(known[at : at + pages]) for at in range(0, len(known), pages)]
        prices, *rows = await reader.call_many([market.prices_call(), *calls], head.hash)
    book = Accounts(market.shape)
    for begin, page in zip(range(0, len(known), pages), rows, strict=True):
        market.shape.check_names(page, known[begin : begin + pages])
        book.fold_rows(page, head.number)
    return _source(config, market, book, market.decode_prices(prices), head)


async def _known(parts: Parts[Any], shelf: Shelf) -> Sequence[AccountKey]:
    """Return every account that the book on disk has, if it can be used, or that an event since has named."""
    deployment, found = parts.config.deployment, dict[AccountKey, None]()
    begin = deployment.from_block
    if loaded := shelf.load(parts.market.shape):
        book, stamp = loaded
        found.update(dict.fromkeys(book.keys.tolist()))
        if await parts.reader.hash_at(stamp.block) == stamp.block_hash:
            begin = max(begin, stamp.block + 1)
    with progress.shown() as bar:
        async for part in parts.reader.search(begin, parts.head.number):
            facts = (parts.market.decode(log) for log in part.logs)
            found.update(dict.fromkeys(key for fact in facts if fact is not None for key in fact.touched))
            bar.at(part.last - begin + 1, parts.head.number - begin + 1)
    return deployment.accounts.pick(found)


def _source(config: Config, market: Market[Any, Any], book: Accounts[Any], world: Any, head: Head) -> Source:
    """Mark a book by what the protocol's own oracle says at a head."""
    at_s, spots = head.timestamp_s, market.spots(world)
    if not spots:
        raise ConfigError(f"no price of {config.deployment.address} is known by a feed: none can be moved")
    kind = PROTOCOLS[config.deployment.protocol]

    def price(quotes: Quotes) -> Marks:
        return kind.marks(market, world, quotes, at_s)

    quotes = {feed: Quote(feed, price_wad, at_s) for feed, price_wad in spots.items()}
    accounts = book.freeze()
    # In the order of their keys, however they were found: the same sums to the last digit.
    rows = np.argsort(accounts.keys, kind="stable")
    held = Mirrored(accounts, quotes, price, partial(market.worths, world, at_s=at_s), rows=rows)
    name = f"{config.deployment.protocol} {config.deployment.address}"
    told = {"book": name, "block": head.number, "left_out": held.unknown}
    if isinstance(market, HybridMarket):
        fund = world.world.insurance_wad / WAD
        return Source(held, told, fund, partial(_legs, market, world, held, at_s))
    is_perp = isinstance(market, PerpCurieMarket)
    return Source(held, told, legs=(lambda **_: linear(held)) if is_perp else None)


def _legs(market: HybridMarket, world: OracleView, held: Mirrored, at_s: UnixS, *, collateral: bool) -> Book:
    """Return what accounts hold of HybridMargin's instruments, by the volatilities of their arrays.

    Without those that have no price: who holds one is left out.
    """
    spots = dict(zip(held.assets, held.spots.tolist(), strict=True))
    told = dict(market.described(world, at_s, collateral=collateral))
    priced = {place: each for place, each in told.items() if each.underlying in spots}
    return Book.of(list(priced.values()), spots, held.positions[:, list(priced)])
