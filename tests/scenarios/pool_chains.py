"""Two more chains that carry out what is sent to them: with a pool of Aave v3 on it, or one of Venus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eth_abi.abi import decode, encode

from keeper import abi
from keeper.domain import Call, ChainTime
from keeper.protocols.aave_v3 import codec as aave_codec
from keeper.protocols.aave_v3 import math as aave_math
from keeper.protocols.aave_v3.abi import LIQUIDATE as LIQUIDATION_CALL
from keeper.protocols.aave_v3.abi import READER as AAVE_READER
from keeper.protocols.aave_v3.math import Rules
from keeper.protocols.aave_v3.params import BASE_UNIT, Deployment
from keeper.protocols.aave_v3.rows import AaveRow
from keeper.protocols.compound_v2 import codec as venus_codec
from keeper.protocols.compound_v2 import math as venus_math
from keeper.protocols.compound_v2.math import Action
from keeper.protocols.compound_v2.rows import Loan
from keeper.units import WAD, AccountKey
from tests.scenarios.chains import STRANGER, LendingChain, share_of
from tests.unit.protocols.aave_v3 import pools
from tests.unit.protocols.compound_v2 import made
from tests.unit.protocols.compound_v2.test_venus_codec import chain, tried_answer
from tests.unit.protocols.hybrid.books import NOW_S

HELD = 5 * WAD
"""What an account has of ether at first, on Aave."""
BORROW = abi.function("liquidateBorrow(address,uint256,address)")


@dataclass
class AaveChain(LendingChain):
    """A pool of Aave v3, by its own integers; its oracle says what its feeds do."""

    rules: Rules = Rules.V3_6
    allows: bool = True
    """Whether its sentinel lets anybody be liquidated."""
    traced: tuple[int, ...] = (pools.WETH, pools.USDC)
    """The reserves whose price leads to a feed."""
    pooled: Mapping[int, pools.Terms] = field(default_factory=lambda: dict(pools.POOLED))
    """Its reserves, but for the price of ether."""

    @property
    def pool(self) -> Deployment:
        """What a keeper has read of it before the start."""
        return pools.deployment(self.rules, traced=self.traced)

    def lend(self, loan: Any) -> None:
        owner = "0x" + loan.key[:20].hex()
        data = encode(["address", "uint256", "uint8", "uint256"], [owner, 1, 2, 0])
        signature = "Borrow(address,address,address,uint256,uint8,uint256,uint16)"
        self.changed(loan, pools.POOL, signature, (pools.token(pools.USDC), owner, "0x"), data)

    def amounts(self, loan: Any) -> tuple[int, int]:
        return dict(loan.collateral).get(pools.WETH, 0), dict(loan.debt).get(pools.USDC, 0)

    def pay_in(self, key: AccountKey, share: float) -> None:
        loan = self.loans[key]
        held, _ = self.amounts(loan)
        self.lend(replace(loan, collateral=((pools.WETH, held + share_of(HELD, share)),)))

    def taken(self, key: AccountKey) -> None:
        self._closed(replace(self.loans[key], collateral=(), debt=()), 1)

    def _closed(self, left: AaveRow, repaid: int, tx_hash: str = "") -> None:
        owner = "0x" + left.key[:20].hex()
        signature = "LiquidationCall(address,address,address,uint256,uint256,address,bool)"
        moved = encode(["uint256", "uint256", "address", "bool"], [repaid, 1, STRANGER, False])
        pair = (pools.token(pools.WETH), pools.token(pools.USDC))
        self.changed(left, pools.POOL, signature, (*pair, owner), moved, tx_hash)

    def named(self, data: bytes) -> str:
        assert data[:4] == LIQUIDATION_CALL.selector
        return LIQUIDATION_CALL.name

    def carry_out(self, data: bytes, at: ChainTime, tx_hash: str = "") -> bool:
        collateral, debt, owner, amount, _ = decode(LIQUIDATION_CALL.inputs, data[4:])
        loan = self.loans[aave_codec.key_of(owner)]
        numbers = {pools.token(number): number for number in pools.NUMBERS}
        world = aave_codec.decode_world(self._told(), self.pool).at(at.timestamp_s).now
        closed = aave_math.close(loan.loan, numbers[collateral], numbers[debt], amount, world)
        if not isinstance(closed, aave_math.Close):
            return False
        if tx_hash:
            held, owed = closed.after.collateral, closed.after.debt
            left = replace(loan, collateral=tuple(held.items()), debt=tuple(owed.items()))
            self._closed(left, closed.repaid, tx_hash)
        return True

    def _told(self) -> bytes:
        price = self.slow["ETH/USD"] * BASE_UNIT // WAD
        terms = {**self.pooled, pools.WETH: replace(self.pooled[pools.WETH], price=price)}
        answered = {pools.WETH: (price, self.slow_at_s), pools.USDC: (BASE_UNIT, NOW_S - 600)}
        answers = [answered[each] for each in self.traced]
        return pools.world_answer(
            terms, rules=self.rules, answers=answers, allows=self.allows, now_s=self.tip.timestamp_s
        )

    def _listing(self) -> bytes:
        words = [
            word
            for each in self.pool.reserves.values()
            for word in (each.number, each.token, each.atoken, each.debt_token, each.source)
        ]
        told = [word if isinstance(word, int) else int(word, 16) for word in words]
        terms = [pools.REVISIONS[self.rules], BASE_UNIT]
        return encode(AAVE_READER["listing"].outputs, [terms, told])

    def _sources(self) -> bytes:
        """Say of each reserve's source what it is a feed of, or nothing."""
        found: list[bytes] = []
        for traces in self.pool.traces.values():
            pair = traces[0].feed.replace("/", " / ") if traces else ""
            said = [encode(["string"], [pair]), (8).to_bytes(32), bytes(160)]
            found += [*(said if traces else [b""] * len(said)), *[b""] * 5]
        return encode(AAVE_READER["tried"].outputs, [found])

    def answered(self, call: Call) -> bytes:
        if call.data[:4] == AAVE_READER["rows"].selector:
            _, users = decode(AAVE_READER["rows"].inputs, call.data[4:])
            keys = [aave_codec.key_of(each) for each in users]
            self.read += keys
            return pools.page_of([self.loans.get(key, AaveRow(key, 0, (), ())) for key in keys])
        whole = {"world": self._told, "listing": self._listing, "tried": self._sources}
        [answer] = [each for name, each in whole.items() if call.data[:4] == AAVE_READER[name].selector]
        return answer()


@dataclass
class VenusChain(LendingChain):
    """An isolated pool of Venus, by its own integers; its oracle says what its feeds do."""

    paused: frozenset[Action] = frozenset()
    """What nobody may do in the market of what is owed."""

    def lend(self, loan: Any) -> None:
        owner = "0x" + loan.key[:20].hex()
        signature = "Borrow(address,uint256,uint256,uint256)"
        self.changed(loan, made.V_USDC, signature, (owner,), encode(["uint256"] * 3, [1, 1, 1]))

    def amounts(self, loan: Any) -> tuple[int, int]:
        debt = loan.state.debts.get(made.DOLLAR)
        return loan.state.held.get(made.ETH, 0), debt.principal if debt else 0

    def pay_in(self, key: AccountKey, share: float) -> None:
        loan = self.loans[key]
        held, _ = self.amounts(loan)
        more = {made.ETH: held + share_of(held, share)}
        self.lend(replace(loan, state=replace(loan.state, held=more)))

    def taken(self, key: AccountKey) -> None:
        loan = self.loans[key]
        self._closed(replace(loan, state=replace(loan.state, held={}, debts={})))

    def _closed(self, left: Loan, tx_hash: str = "") -> None:
        indexed = (STRANGER, "0x" + left.key[:20].hex(), made.V_WETH)
        signature = "LiquidateBorrow(address,address,uint256,address,uint256)"
        self.changed(left, made.V_USDC, signature, indexed, encode(["uint256"] * 2, [1, 1]), tx_hash)

    def named(self, data: bytes) -> str:
        assert data[:4] == BORROW.selector
        return BORROW.name

    def carry_out(self, data: bytes, at: ChainTime, tx_hash: str = "") -> bool:
        owner, amount, _ = decode(BORROW.inputs, data[4:])
        loan = self.loans[venus_codec.key_of(owner)]
        pool = venus_codec.decode_world(self._told(), made.LISTING).pool
        closed = venus_math.close(loan.state, pool, made.ETH, made.DOLLAR, amount, at.block)
        if not isinstance(closed, venus_math.Close):
            return False
        if tx_hash:
            self._closed(replace(loan, state=closed.loan), tx_hash)
        return True

    def _told(self) -> bytes:
        ether, dollars = (
            replace(made.MARKET, price=self.slow["ETH/USD"]),
            replace(made.OF_USDC, paused=self.paused),
        )
        rounds = ((self.slow["ETH/USD"] // 10**10, self.slow_at_s), (10**8, NOW_S - 600))
        at = ChainTime(self.tip.number, self.tip.timestamp_s)
        return made.world_words([made.market_words(each) for each in (ether, dollars)], rounds, at)

    def answered(self, call: Call) -> bytes:
        reader = abi.load("readers", "VenusReader").functions
        if call.data[:4] == reader["world"].selector:
            return self._told()
        if call.data[:4] == reader["tried"].selector:
            return tried_answer(call, chain())
        _, _, keys, _ = decode(reader["rows"].inputs, call.data[4:])
        self.read += keys
        nothing = venus_math.Loan((), {}, {})
        return made.page_of([self.loans.get(key, Loan(key, nothing)) for key in keys])
