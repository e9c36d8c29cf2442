"""What the demo of another protocol plays on: its real contracts, accounts, an exchange, a keeper's means.

Prices are known by feed: ``ETH/USD`` is what an ether is worth at the start, times how far it has moved. A
stage moves its oracles and its exchange to them, and reads every account by the adapter's exact integers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any, Final, Protocol

from keeper.columns.shape import rows_of
from keeper.domain import ChainTime, Unknown
from keeper.errors import ChainFault
from keeper.lab.anvil import GWEI, Node, Tx
from keeper.lab.foreign import aave_v3, compound_v2, morpho_blue, perp_curie
from keeper.lab.foreign.base import NONE, Lab
from keeper.lab.foreign.exchange import OWNER, Exchange, deploy_exchange
from keeper.lab.foreign.lent import Lent
from keeper.lending.routes import Q96
from keeper.lending.words import Close
from keeper.ports import LendingMarket, Market, PerpMarket, Takeover
from keeper.protocols.aave_v3 import abi as aave_abi
from keeper.protocols.aave_v3 import codec as aave_codec
from keeper.protocols.aave_v3 import params as aave_params
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.compound_v2 import codec as venus_codec
from keeper.protocols.compound_v2 import params as venus_params
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.morpho_blue import codec as morpho_codec
from keeper.protocols.morpho_blue import params as morpho_params
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.protocols.perp_curie import codec as perp_codec
from keeper.protocols.perp_curie import params as perp_params
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.units import WAD, AccountKey, FeedId, Wad, Wei

DOLLARS: Final[Mapping[str, float]] = {"ETH": 2_000, "BTC": 40_000, "LINK": 10, "USDC": 1, "USD": 1}
BETAS: Final[Mapping[str, float]] = {"ETH": 1.0, "BTC": 0.85, "LINK": 1.1}
"""How far each moves where ether moves by one, in logarithms; what is not here stands still."""
ASSETS: Final[Mapping[str, str]] = {"WETH": "ETH", "WBTC": "BTC", "LINK": "LINK"}
"""Tokens that are listed, and what they are worth as much as."""
FEEDS: Final[Mapping[str, FeedId]] = {token: f"{ASSETS.get(token, token)}/USD" for token in (*ASSETS, "USDC")}
"""What values each token that an account has here, where a protocol counts in dollars."""
PAIRS: Final = (
    *(("WETH", "USDC"), ("WBTC", "USDC"), ("LINK", "USDC")),
    *(("WETH", "USDC"), ("WBTC", "WETH"), ("USDC", "WETH")),
)
"""Collateral and debt of the accounts, in turn."""
WORTH: Final = (4.2, 5.2)
"""Powers of ten between which the collateral of an account lies, in dollars."""
HEALTH: Final = (1.02, 1.6)
SPARE: Final = 1.003
"""What is borrowed is so far below what may be."""
DEPOSIT: Final = 1_000_000
"""The keeper's on Perpetual, in dollars."""
MARGIN: Final = (0.11, 0.4)
"""Between which part of its position the deposit of an account on Perpetual lies."""


@dataclass(frozen=True, slots=True)
class View:
    """An account as the demo counts it; worths are in quote."""

    health: float
    """Endless where nothing is owed; below 1 the contract lets anybody close it."""
    owed_wad: Wad
    """Its debts; of Perpetual what its positions are worth."""
    equity_wad: Wad
    """Its collateral less its debts; of Perpetual its account value."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What one closing takes: so much of what is owed, and what the owner pays for it."""

    closed_wad: Wad
    paid_wad: Wad


@dataclass(frozen=True, slots=True)
class Plain:
    """What a bot as tutorials write it is told of a protocol (``tutorial.py``)."""

    accounts: tuple[Mapping[str, Any], ...]
    """By the words that it knows them by, as an indexer would."""
    abis: Mapping[str, Any]
    stocked: Callable[[str], list[Tx]]
    """Builds what gives a wallet all tokens that it may have to pay with."""


@dataclass(slots=True)
class Ground:
    """What several protocols on one chain share: tokens by symbol, and the exchange once there is one."""

    tokens: Mapping[str, str]
    exchange: Exchange | None = None


class Stage(Protocol):
    """One protocol, ready to be played on."""

    @property
    def lab(self) -> Lab: ...

    @property
    def market(self) -> Market[Any, Any]:
        """Return the protocol as the keeper sees it."""
        ...

    @property
    def lent(self) -> Lent: ...

    @property
    def keys(self) -> tuple[AccountKey, ...]: ...

    @property
    def settings(self) -> str:
        """Return what a keeper of it has in its file beside node, feed and journal."""
        ...

    @property
    def doors(self) -> frozenset[str]:
        """Return the contracts that whoever liquidates here sends to, in lower case."""
        ...

    @property
    def plain(self) -> Plain:
        """Return what a plain bot knows and holds here."""
        ...

    @property
    def told_by(self) -> frozenset[str]:
        """Return the contracts that move prices here, of those that a keeper looks behind; in lower case."""
        ...

    @property
    def block_s(self) -> int: ...

    @property
    def base_fee_wei(self) -> Wei: ...

    @property
    def after(self) -> int:
        """Return how many blocks of calm there are at least, once prices have fallen."""
        ...

    def follow(self, prices: Mapping[FeedId, float], *, trades: bool) -> list[Tx]:
        """Build what moves oracles to the prices of some feeds, and the exchange where it ``trades``."""
        ...

    def view(self, row: Any, world: Any, at: ChainTime) -> View:
        """Return how an account stands in block ``at``, if nobody acts before."""
        ...

    def most(self, row: Any, world: Any, at: ChainTime) -> Cut:
        """Return the most that could be taken at once of an account that is below its limit."""
        ...

    def below(self) -> list[AccountKey]:
        """Return who is below the limit now, by the contract's own word."""
        ...

    def earned_wad(self, world: Any) -> Wad:
        """Return what the keeper has gained so far, before gas."""
        ...


def read(stage: Stage) -> tuple[Any, tuple[Any, ...]]:
    """Read the world and every account as they are at the newest block."""
    world = stage.market.decode_prices(stage.lent.call(stage.market.prices_call()))
    page = stage.lent.call(stage.market.rows_call(stage.keys))
    stage.market.shape.check_names(page, stage.keys)
    return world, rows_of(stage.market.shape, page)


def price_of(feed: FeedId, moved: float) -> float:
    """Return the price of a feed where ether is at ``moved`` times its price at the start."""
    base, quote = (DOLLARS[each] * exp(BETAS.get(each, 0.0) * log(moved)) for each in feed.split("/"))
    return base / quote


# --- protocols that lend -------------------------------------------------------------------------


@dataclass(frozen=True)
class LendingStage:
    """Implements ``Stage`` for protocols that lend; the keeper acts through a FlashLiquidator."""

    lab: Lab
    market: LendingMarket[Any, Any]
    lent: Lent
    keys: tuple[AccountKey, ...]
    settings: str
    oracles: Mapping[FeedId, Callable[[float], list[Tx]]]
    traded: Mapping[FeedId, str]
    """Of feeds that the exchange follows too, the token."""
    exchange: Exchange
    plain: Plain
    sources: tuple[str, ...]
    """The contracts that its oracles' transactions go to."""
    contract_below: Callable[[], list[AccountKey]]
    block_s: int = 12
    base_fee_wei: Wei = 5 * GWEI
    after: int = 12

    @property
    def doors(self) -> frozenset[str]:
        """Return the protocol's contracts, and the one that a keeper acts through."""
        return frozenset(each.lower() for each in (*self.market.addresses, self.exchange.liquidator))

    @property
    def told_by(self) -> frozenset[str]:
        """Return the oracles', and that which trades the exchange: a sale comes behind it, too."""
        return frozenset(each.lower() for each in (*self.sources, self.exchange.maker))

    def follow(self, prices: Mapping[FeedId, float], *, trades: bool) -> list[Tx]:
        """Build what moves oracles to the prices of some feeds, and the exchange where it ``trades``."""
        told = [tx for feed, price in prices.items() for tx in self.oracles[feed](price)]
        traded = [
            (self.traded[feed], price) for feed, price in prices.items() if feed in self.traded and trades
        ]
        return told + [self.exchange.moved(token, price) for token, price in traded]

    def view(self, row: Any, world: Any, at: ChainTime) -> View:
        """Return how an account stands, equal to the contract's own view of that block."""
        found = _known(self.market.stand(row, self.market.carried(world, at)))
        health = float("inf") if found.health_wad is None else found.health_wad / WAD
        return View(health, found.debt_wad, found.collateral_wad - found.debt_wad)

    def most(self, row: Any, world: Any, at: ChainTime) -> Cut:
        """Return what closing as much as the contract takes would do, by whichever way takes most."""
        carried = self.market.carried(world, at)
        cuts = [Cut(0, 0)]
        for way in self.market.ways(row, carried):
            close = self.market.close(row, way, self.market.most(row, way, carried), carried)
            if isinstance(close, Close):
                repaid_wad = _known(self.market.worth_wad(way.debt, close.repaid, carried))
                cuts.append(Cut(repaid_wad, repaid_wad * way.bonus_wad // WAD))
        return max(cuts, key=lambda cut: cut.closed_wad)

    def below(self) -> list[AccountKey]:
        """Ask the contract."""
        return self.contract_below()

    def earned_wad(self, world: Any) -> Wad:
        """Return what the FlashLiquidator holds."""
        tokens, liquidator = self.market.tokens, self.exchange.liquidator
        held = self.lab.ask_many([("TestToken", token, "balanceOf", liquidator) for token in tokens])
        return sum(
            _known(self.market.worth_wad(token, units, world))
            for token, units in zip(tokens, held, strict=True)
            if units
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """An account to be opened: so many dollars of one token, and of debt in another."""

    owner: str
    collateral: str
    debt: str
    held: float
    owed: float


def draw(
    count: int, seed: int, pairs: Sequence[tuple[str, str]], limits: Callable[[int, str], tuple[float, float]]
) -> Iterator[Drawn]:
    """Draw accounts; ``limits`` says of a number and its collateral what part may be borrowed and owed."""
    rng = random.Random(seed)
    for number in range(count):
        collateral, debt = pairs[number % len(pairs)]
        may, limit = limits(number, collateral)
        health = max(_low(rng, HEALTH), limit / may * SPARE)
        held = 10 ** rng.uniform(*WORTH)
        yield Drawn("0x" + rng.randbytes(20).hex(), collateral, debt, held, held * limit / health)


def _low(rng: random.Random, between: tuple[float, float]) -> float:
    """Draw a number, more often a low one."""
    low, high = between
    return low + (high - low) * rng.random() ** 2


def aave_stage(node: Node, keeper: str, accounts: int, seed: int, ground: Ground | None = None) -> Stage:
    """Play on Aave v3.6: a pool with twenty reserves, four of which have a feed."""
    aave = aave_v3.deploy(node, ground.tokens if ground else NONE)
    lab, listed = aave.lab, aave_v3.ASSETS

    def limits(_: int, collateral: str) -> tuple[float, float]:
        asset = listed[collateral]
        return asset.ltv_bps / 1e4, asset.threshold_bps / 1e4

    drawn = list(draw(accounts, seed, PAIRS, limits))
    node.fund([each.owner for each in drawn])
    txs = []
    for each in drawn:
        supplied, borrowed = listed[each.collateral].units(each.held), listed[each.debt].units(each.owed)
        txs += aave.fund(each.owner, [each.collateral])
        txs += [aave.supply(each.owner, each.collateral, supplied)]
        txs += [aave.borrow(each.owner, each.debt, borrowed)]
    lab.run(txs)
    exchange = _exchange(lab, keeper, aave.tokens, ground)
    named = {aave.sources[token]: feed for token, feed in FEEDS.items()}
    lent = Lent.of(node, aave_params.LENT_READER, aave_abi.reader_creation())

    def below() -> list[AccountKey]:
        asked = [(aave.names.pool, aave.pool, "getUserAccountData", each.owner) for each in drawn]
        told = lab.ask_many(asked)
        return [
            aave_codec.key_of(each.owner) for each, data in zip(drawn, told, strict=True) if data[5] < WAD
        ]

    def oracle(token: str) -> Callable[[float], list[Tx]]:
        return lambda price: [
            lab.tx("PriceSource", aave.sources[token], "set", int(price * 10**8)),
        ]

    return LendingStage(
        lab=lab,
        market=AaveMarket(lent.read(aave_params.read_deployment(aave.pool, named))),
        lent=lent,
        keys=tuple(aave_codec.key_of(each.owner) for each in drawn),
        settings=_section("aave_v3", pool=aave.pool, feeds=named) + _flash(exchange),
        oracles={f"{asset}/USD": oracle(token) for token, asset in ASSETS.items()},
        traded={f"{asset}/USD": aave.tokens[token] for token, asset in ASSETS.items()},
        exchange=exchange,
        plain=Plain(
            tuple(
                {
                    "at": aave.pool,
                    "owner": each.owner,
                    "collateral": aave.tokens[each.collateral],
                    "debt": aave.tokens[each.debt],
                }
                for each in drawn
            ),
            {"aave": lab.contracts[aave.names.pool]["abi"]},
            lambda who: aave.fund(who, sorted({each.debt for each in drawn})),
        ),
        sources=tuple(aave.sources[token] for token in ASSETS),
        contract_below=below,
    )


def venus_stage(node: Node, keeper: str, accounts: int, seed: int, ground: Ground | None = None) -> Stage:
    """Play on an isolated pool of Venus with five markets."""
    venus = compound_v2.deploy(node, ground.tokens if ground else NONE)
    lab, listed = venus.lab, compound_v2.ASSETS

    def limits(_: int, collateral: str) -> tuple[float, float]:
        asset = listed[collateral]
        return asset.factor / 100, asset.threshold / 100

    drawn = list(draw(accounts, seed, PAIRS, limits))
    node.fund([each.owner for each in drawn])
    txs = []
    for each in drawn:
        supplied, borrowed = listed[each.collateral].units(each.held), listed[each.debt].units(each.owed)
        txs += venus.fund(each.owner, [each.collateral])
        txs += [venus.act(each.owner, each.collateral, "mint", supplied)]
        txs += [venus.act(each.owner, each.debt, "borrow", borrowed)]
    lab.run(txs)
    exchange = _exchange(lab, keeper, venus.tokens, ground)
    named = {venus.tokens[token]: feed for token, feed in FEEDS.items()}
    lent = Lent.of(node, venus_params.LENT_READER, venus_codec.reader_creation())

    def below() -> list[AccountKey]:
        at = venus.comptroller
        told = lab.ask_many([("Comptroller", at, "getAccountLiquidity", each.owner) for each in drawn])
        return [venus_codec.key_of(each.owner) for each, data in zip(drawn, told, strict=True) if data[2]]

    def oracle(token: str) -> Callable[[float], list[Tx]]:
        decimals = 36 - listed[token].decimals
        return lambda price: [
            lab.tx(
                "MockPriceOracle", venus.oracle, "setPrice", venus.tokens[token], int(price * 10**decimals)
            ),
        ]

    return LendingStage(
        lab=lab,
        market=VenusMarket(
            lent.read(venus_params.read_listing(venus_params.Chosen(venus.comptroller, named)))
        ),
        lent=lent,
        keys=tuple(venus_codec.key_of(each.owner) for each in drawn),
        settings=_section("compound_v2", comptroller=venus.comptroller, feeds=named) + _flash(exchange),
        oracles={f"{asset}/USD": oracle(token) for token, asset in ASSETS.items()},
        traded={f"{asset}/USD": venus.tokens[token] for token, asset in ASSETS.items()},
        exchange=exchange,
        plain=Plain(
            tuple(
                {
                    "at": venus.comptroller,
                    "owner": each.owner,
                    "collateral": venus.vtokens[each.collateral],
                    "debt": venus.vtokens[each.debt],
                }
                for each in drawn
            ),
            {
                name: lab.contracts[of]["abi"]
                for name, of in (("comptroller", "Comptroller"), ("vtoken", "VToken"))
            },
            lambda who: venus.fund(who, sorted({each.debt for each in drawn})),
        ),
        sources=(venus.oracle,),
        contract_below=below,
    )


def morpho_stage(node: Node, keeper: str, accounts: int, seed: int, ground: Ground | None = None) -> Stage:
    """Play on Morpho Blue: four markets, two with pre-liquidation, to which every second owner agreed."""
    morpho = morpho_blue.deploy(node, ground.tokens if ground else NONE)
    lab, markets = morpho.lab, morpho.markets
    dollars, decimals = morpho_blue.DOLLARS, morpho_blue.DECIMALS

    def pre_of(number: int) -> str:
        return markets[number % len(markets)].pre if number // len(markets) % 2 else ""

    def limits(number: int, _: str) -> tuple[float, float]:
        spec = markets[number % len(markets)].spec
        first_wad = spec.pre.lltv_wad if spec.pre and pre_of(number) else spec.lltv_wad
        return spec.lltv_wad / WAD, first_wad / WAD

    pairs = [(each.spec.collateral, each.spec.loan) for each in markets]
    drawn = list(draw(accounts, seed, pairs, limits))
    node.fund([each.owner for each in drawn])
    txs = []
    for number, each in enumerate(drawn):
        who, market = each.owner, markets[number % len(markets)]
        held = int(each.held * 10 ** decimals[each.collateral] / dollars[each.collateral])
        owed = int(each.owed * 10 ** decimals[each.debt] / dollars[each.debt])
        txs += morpho.fund(who, [each.collateral])
        txs += [morpho.act(who, market, "supplyCollateral", held, who, b"")]
        txs += [morpho.act(who, market, "borrow", owed, 0, who, who)]
        if pre := pre_of(number):
            txs.append(lab.tx("Morpho", morpho.morpho, "setAuthorization", pre, True, sender=who))
    lab.run(txs)
    exchange = _exchange(lab, keeper, morpho.tokens, ground, morpho=morpho.morpho)
    keys = tuple(
        morpho_codec.key_of(each.owner, markets[number % len(markets)].id)
        for number, each in enumerate(drawn)
    )
    names = {
        oracle: "/".join(ASSETS.get(side, side) for side in (each.spec.collateral, each.spec.loan))
        for each in markets
        for oracle in (each.oracle, each.pre_oracle)
        if oracle
    }
    ether = morpho.feeds["WETH"]
    chosen = morpho_params.Chosen(
        morpho=morpho.morpho,
        markets=tuple("0x" + each.id.hex() for each in markets),
        pres=tuple(each.pre for each in markets if each.pre),
        feeds={**names, ether: "ETH/USD"},
        tokens={morpho.tokens["USDC"]: "USD", morpho.tokens["WETH"]: "ETH/USD"},
    )
    lent = Lent.of(node, morpho_params.LENT_READER, morpho_codec.reader_creation())
    morpho.lab.run(morpho.fund(OWNER, list(morpho.tokens), chosen.pres))

    def below() -> list[AccountKey]:
        """Try to liquidate a share of everybody: Morpho has no view of an account's health."""
        shares, found = 10**6, []
        for number, (key, each) in enumerate(zip(keys, drawn, strict=True)):
            market, pre = markets[number % len(markets)], pre_of(number)
            tries = [morpho.close(OWNER, market, each.owner, 0, shares)]
            tries += [morpho.pre_close(OWNER, market, each.owner, 0, shares)] if pre else []
            found += [key] if any(outcome.ok for outcome in lab.outcomes(tries)) else []
        return found

    def oracle(feed: FeedId) -> Callable[[float], list[Tx]]:
        of = {address: each for each in markets for address in (each.oracle, each.pre_oracle)}
        addresses = [address for address, name in names.items() if name == feed]

        def move(price: float) -> list[Tx]:
            moved = price / price_of(feed, 1.0)
            return [
                lab.tx("PriceSource", each, "set", int(of[each].spec.price * moved)) for each in addresses
            ]

        return move

    return LendingStage(
        lab=lab,
        market=MorphoMarket(lent.read(morpho_params.read_listing(chosen))),
        lent=lent,
        keys=keys,
        settings=_section(
            "morpho_blue",
            morpho=chosen.morpho,
            markets=chosen.markets,
            pre_liquidations=chosen.pres,
            feeds=chosen.feeds,
            tokens=chosen.tokens,
        )
        + _flash(exchange),
        oracles={
            **{feed: oracle(feed) for feed in dict.fromkeys(names.values())},
            "ETH/USD": lambda price: [lab.tx("PriceSource", ether, "set", int(price * 10**8))],
        },
        traded={
            f"{asset}/USDC": morpho.tokens[token] for token, asset in ASSETS.items() if token in morpho.tokens
        },
        exchange=exchange,
        plain=Plain(
            tuple(
                {
                    "at": morpho.morpho,
                    "owner": each.owner,
                    "market": "0x" + markets[number % len(markets)].id.hex(),
                    "params": markets[number % len(markets)].params,
                }
                for number, each in enumerate(drawn)
            ),
            {
                name: lab.contracts[of]["abi"]
                for name, of in (("morpho", "Morpho"), ("oracle", "PriceSource"))
            },
            lambda who: morpho.fund(who, list(morpho.tokens)),
        ),
        sources=(*names, ether),
        contract_below=below,
    )


def _exchange(
    lab: Lab, keeper: str, tokens: Mapping[str, str], ground: Ground | None, *, morpho: str = ""
) -> Exchange:
    """Deploy an exchange where every token that has a feed is traded for dollars, for a keeper to sell on.

    Where there is one already, only a contract that acts on it is new.
    """
    if ground is not None and ground.exchange is not None:
        return ground.exchange.operated(keeper)
    known = {**tokens, **(ground.tokens if ground else {})}
    prices = {known[token]: DOLLARS[asset] for token, asset in ASSETS.items() if token in known}
    exchange = deploy_exchange(lab, prices, quote=tokens["USDC"], morpho=morpho)
    lab.do("FlashLiquidator", exchange.liquidator, "setOperator", keeper, sender=OWNER)
    if ground is not None:
        ground.exchange = exchange
    return exchange


def _section(protocol: str, **settings: Any) -> str:
    """Write the section that names a deployment."""
    lines = [f"{name} = {_toml(value)}" for name, value in {"protocol": protocol, **settings}.items()]
    return "\n".join(["[deployment]", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{key}" = "{each}"' for key, each in value.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return f'"{value}"'


def _flash(exchange: Exchange) -> str:
    return f"""
[closing]
liquidator = "{exchange.liquidator}"

[exchange]
uniswap_v3 = "{exchange.v3_factory}"
bridges = ["{exchange.quote}"]
"""


def _known(found: Any) -> Any:
    if isinstance(found, Unknown):
        raise ChainFault(f"{found.what}: {found.why}")
    return found


# --- Perpetual -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PerpStage:
    """Implements ``Stage`` for Perpetual v2; the keeper takes positions over into an account of its own.

    The contract's mark is a median with means over half an hour: blocks are longer, so that it has come down
    within the demo. Gas costs what it does on a rollup, where the protocol is at home.
    """

    perp: perp_curie.Perp
    market: PerpMarket[Any, Any]
    lent: Lent
    keys: tuple[AccountKey, ...]
    settings: str
    keeper: str
    plain: Plain
    block_s: int = 30
    base_fee_wei: Wei = GWEI // 10
    after: int = 40

    @property
    def lab(self) -> Lab:
        return self.perp.lab

    @property
    def doors(self) -> frozenset[str]:
        """Return the protocol's contracts."""
        return frozenset(each.lower() for each in self.perp.at.values())

    @property
    def told_by(self) -> frozenset[str]:
        """Return nothing: no price that is told once moves a mean over many minutes."""
        return frozenset()

    def follow(self, prices: Mapping[FeedId, float], *, trades: bool) -> list[Tx]:
        """Set the index, and let the whale trade the pool to it."""
        assert trades, "nobody else trades these pools"
        return [tx for feed, price in prices.items() for tx in _perp_moves(self.perp, feed[:3], price)]

    def view(self, row: Any, world: Any, at: ChainTime) -> View:
        """Return how an account stands, equal to the contract's own view of the newest block."""
        del at
        margin = _known(self.market.stand(row, world))
        health = margin.value_wad / margin.required_wad if margin.required_wad else float("inf")
        owed_wad = sum(
            abs(each.size_wad) * world.markets[number].mark_wad // WAD
            for number, each in row.trader.positions.items()
        )
        return View(health, owed_wad, margin.value_wad)

    def most(self, row: Any, world: Any, at: ChainTime) -> Cut:
        """Return what taking over as much as the contract allows would do."""
        del at
        cuts = [Cut(0, 0)]
        before_wad = _known(self.market.stand(row, world)).value_wad
        for offer in self.market.offers(row, world):
            found = self.market.take_over(row, offer, offer.most_wad, world)
            if isinstance(found, Takeover):
                cuts.append(Cut(abs(found.notional_wad), before_wad - found.margin.value_wad))
        return max(cuts, key=lambda cut: cut.closed_wad)

    def below(self) -> list[AccountKey]:
        """Ask the contract."""
        at, balances = self.perp.at["ClearingHouse"], self.perp.at["AccountBalance"]
        owners = ["0x" + key[:20].hex() for key in self.keys]
        values = self.lab.ask_many([("ClearingHouse", at, "getAccountValue", each) for each in owners])
        required = self.lab.ask_many(
            [("AccountBalance", balances, "getMarginRequirementForLiquidation", each) for each in owners]
        )
        told = zip(self.keys, values, required, strict=True)
        return [key for key, value_wad, required_wad in told if value_wad < required_wad]

    def earned_wad(self, world: Any) -> Wad:
        """Return by how much the keeper's own account is worth more than what was paid in."""
        del world
        value: Wad = self.lab.ask(
            "ClearingHouse", self.perp.at["ClearingHouse"], "getAccountValue", self.keeper
        )
        return value - DEPOSIT * WAD


def perp_stage(node: Node, keeper: str, accounts: int, seed: int, ground: Ground | None = None) -> Stage:
    """Play on Perpetual v2: two markets, and traders of whom three in four are long."""
    perp = perp_curie.deploy(node, ground.tokens if ground else NONE)
    lab, rng = perp.lab, random.Random(seed)
    owners = ["0x" + rng.randbytes(20).hex() for _ in range(accounts)]
    node.fund(owners)
    lab.run(perp.deposit(keeper, DEPOSIT))
    for number, who in enumerate(owners):
        symbol, dollars = _symbol(number), int(10 ** rng.uniform(*WORTH))
        opened = perp.trade(who, symbol, dollars * WAD, sell=number % 4 == 3)
        lab.run([*perp.deposit(who, int(dollars * _low(rng, MARGIN))), opened])
        # Everybody's trade moves the pool, and somebody brings it back before the next.
        lab.run(_perp_moves(perp, symbol, DOLLARS[symbol]), after_s=perp_curie.BLOCK_S)
    lab.pass_time(perp_curie.HISTORY_S)
    house = perp.at["ClearingHouse"]
    markets = {base: f"{symbol}/USD" for symbol, base in perp.bases.items()}
    lent = Lent.of(node, perp_params.LENT_READER, perp_params.reader_creation(house))
    return PerpStage(
        perp=perp,
        market=PerpCurieMarket(lent.read(perp_params.read_deployment(house, markets))),
        lent=lent,
        keys=tuple(perp_codec.key_of(who) for who in owners),
        settings=_section("perp_curie", clearing_house=house, markets=markets),
        keeper=keeper,
        plain=Plain(
            tuple(
                {
                    "at": house,
                    "owner": who,
                    "balances": perp.at["AccountBalance"],
                    "base": perp.bases[_symbol(number)],
                }
                for number, who in enumerate(owners)
            ),
            {
                name: lab.contracts[of]["abi"]
                for name, of in (("house", "ClearingHouse"), ("balances", "AccountBalance"))
            },
            lambda who: perp.deposit(who, DEPOSIT),
        ),
    )


def _symbol(number: int) -> str:
    """Return in which market an account trades."""
    return ("ETH", "ETH", "BTC")[number % 3]


def _perp_moves(perp: perp_curie.Perp, symbol: str, price: float) -> list[Tx]:
    """Build what sets an index, and the whale's trade that ends where the pool's price is the same."""
    pool_price = perp.lab.ask("Exchange", perp.at["Exchange"], "getSqrtMarkTwapX96", perp.bases[symbol], 0)
    target = int(sqrt(price) * Q96)
    sells = target < pool_price
    # More than it takes: the trade ends at the limit.
    order = (
        perp.bases[symbol],
        sells,
        True,
        10**5 * WAD if sells else 10**9 * WAD,
        0,
        2**256 - 1,
        target,
        bytes(32),
    )
    return [
        perp.lab.tx("PriceSource", perp.indices[symbol], "set", int(price * WAD)),
        perp.act(perp_curie.WHALE, "ClearingHouse", "openPosition", order),
    ]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the stage of one protocol is set, and what it needs."""

    title: str
    build: Callable[[Node, str, int, int, Ground | None], Stage]
    """Of a node, the keeper's wallet, how many accounts, a seed, and what it shares with others."""
    gathered: tuple[str, ...]
    """Contracts of others that scripts/build_protocols.py must have gathered."""
    code_size_limit: bool = True


_SOLD: Final = ("subjects", "exchange", "morpho_blue")
KINDS: Final[Mapping[str, Kind]] = {
    "aave_v3": Kind("Aave v3.6", aave_stage, ("aave_v3.6", *_SOLD)),
    "morpho_blue": Kind("Morpho Blue", morpho_stage, _SOLD),
    "compound_v2": Kind("Venus isolated pool", venus_stage, ("compound_v2", *_SOLD), code_size_limit=False),
    "perp_curie": Kind("Perpetual v2", perp_stage, ("perp_curie", "subjects")),
}
"""By ``deployment.protocol``."""
