"""Chains that carry out what is sent to them: with HybridMargin on them, or with Morpho Blue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eth_abi.abi import decode, encode
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper import abi
from keeper.confirm.hybrid import confirm_alarm, contradicted
from keeper.domain import (
    Account,
    Agree,
    Assessment,
    Call,
    ChainTime,
    FeedView,
    FlagState,
    Head,
    Log,
    Phase,
    Reason,
    Refuse,
)
from keeper.oracles.words import LENT_READER
from keeper.protocols.hybrid import liquidator
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.morpho_blue import math
from keeper.protocols.morpho_blue.rows import Loan
from keeper.units import BPS, WAD, AccountKey, FeedId, Wad
from tests.unit.pipeline.desk import EMPTY, KEEPER, NAMES, Chain, confirmed, flagged
from tests.unit.protocols.hybrid.books import NOW_S
from tests.unit.protocols.morpho_blue import made
from tests.unit.protocols.morpho_blue.test_morpho_codec import listed, tried_answer

STRANGER = "0x" + "99" * 20
"""Whoever else closes accounts."""
RICH = 10**30
"""What the wallet has of every token at first, and allows everybody."""
LIQUIDATE = abi.function("liquidate((address,address,address,address,uint256),address,uint256,uint256,bytes)")
CLOSING = frozenset({"liquidate", "buyCollateral", "preLiquidate", "liquidationCall", "liquidateBorrow"})
"""Functions that take something of an account, of any contract."""


def share_of(wad: Wad, share: float) -> Wad:
    """Return a share of an amount, of which six digits count."""
    return wad * round(share * 10**6) // 10**6


@dataclass(frozen=True, slots=True)
class Said:
    """What both clocks say of the market, as shares of the first price."""

    fast: float | None
    chain: float
    edge: float
    """Below which of them the account was in breach, as it stood then."""


@dataclass
class Reacting(Chain):
    """A chain whose contract does what a transaction asks for, or reverts, by the prices of the block."""

    slow_at_s: int = NOW_S
    """When the protocol's own price was answered last."""
    late_s: int = 0
    """How much later than every twelve seconds blocks come by now."""
    calldata: dict[str, bytes] = field(default_factory=dict)
    """Of every transaction that was handed over, by its hash."""
    said: dict[str, Said] = field(default_factory=dict)
    """What both clocks said when the first of its nonce was."""
    clocks: Callable[[], Said] = lambda: Said(None, 1.0, 1.0)
    """Returns what they say now."""
    states: dict[int, object] = field(default_factory=dict)
    """What the contract stored before each block, by its number."""

    @property
    def next(self) -> Head:
        """The block that comes next."""
        found = super().next
        return replace(found, timestamp_s=found.timestamp_s + self.late_s)

    def extend(self) -> Head:
        """Add a block."""
        found = super().extend()
        self.states[found.number] = self.state
        return found

    def cut(self, depth: int) -> list[Head]:
        """Take back the newest blocks, and what the contract stored in them."""
        orphaned = super().cut(depth)
        self.state = self.states[orphaned[-1].number]
        return orphaned

    @property
    def state(self) -> object:
        """What the contract stores."""
        raise NotImplementedError

    @state.setter
    def state(self, found: object) -> None:
        raise NotImplementedError

    def answer(self, feed: FeedId, price_wad: Wad) -> None:
        """Have the protocol's own source answer in the newest block."""
        self.slow[feed] = price_wad
        self.slow_at_s = self.tip.timestamp_s

    def carry_out(self, data: bytes, at: ChainTime, tx_hash: str = "") -> bool:
        """Tell whether a call goes through; store what it does where it is that of a transaction."""
        raise NotImplementedError

    def named(self, data: bytes) -> str:
        """Name the function that calldata calls."""
        raise NotImplementedError

    def mine(self, *, status: int = 1) -> None:
        """Include all that is pending in the newest block, and do what it asks for."""
        at = ChainTime(self.tip.number, self.tip.timestamp_s)
        waiting = dict(self.pending)
        for tx_hash, raw in waiting.items():
            self.pending = {tx_hash: raw}
            data = self.calldata[tx_hash]
            # What cancels a step asks for nothing.
            super().mine(status=status and int(not data or self.carry_out(data, at, tx_hash)))

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        assert sender
        assert gas_limit > 0
        self._may_fail("simulate")
        if self.named(call.data) not in self.reverts and self.carry_out(call.data, at):
            return b""
        return Refuse(Reason("simulation.reverted", "0x", "must not revert"))

    async def request(self, method: str, params: list[object]) -> Any:
        waiting = {self.nonces[each]: self.said[each] for each in self.pending}
        answer = await super().request(method, params)
        if method == "eth_sendRawTransaction":
            found = TypedTransaction.from_bytes(HexBytes(str(params[0]))).as_dict()["data"]
            self.calldata[answer] = bytes(found)
            # A higher bid is the same step: it was decided when the first one was.
            self.said.setdefault(answer, waiting.get(self.nonces[answer], self.clocks()))
        return answer


@dataclass
class MarginChain(Reacting):
    """HybridMargin, by the twin of its contracts; with an insurance that pays for who has nothing left."""

    insurance_wad: Wad = 10**6 * WAD
    min_delay_s: int = 12
    """How long after a flag it can be confirmed at the earliest."""

    @property
    def state(self) -> object:
        return dict(self.accounts)

    @state.setter
    def state(self, found: object) -> None:
        assert isinstance(found, dict)
        self.accounts = dict(found)

    def views(self) -> dict[FeedId, FeedView]:
        """Both prices: the slow one of when it was answered last."""
        return {
            feed: replace(view, slow_updated_at_s=self.slow_at_s, min_delay_s=self.min_delay_s)
            for feed, view in super().views().items()
        }

    def named(self, data: bytes) -> str:
        return NAMES[data[:4]]

    def carry_out(self, data: bytes, at: ChainTime, tx_hash: str = "") -> bool:
        name = NAMES[data[:4]]
        values = decode(load("Liquidator").functions[name].inputs, data[4:])
        found = self._assessed(self.accounts[values[0]], at)
        changed = self._sliced(found, values[1]) if name == "liquidate" else self._moved(name, found)
        if changed and tx_hash:
            for account in changed:
                self.put(account)
        return bool(changed)

    def _assessed(self, account: Account, at: ChainTime) -> Assessment:
        market = HybridMarket(self.deployment)
        oracles = market.decode_prices(self._answer(market.prices_call()))
        found = market.assess(account, oracles, at)
        assert isinstance(found, Assessment)
        return found

    def _moved(self, name: str, found: Assessment) -> tuple[Account, ...]:
        """Return the account as an act leaves it that moves no money; none where the contract refuses."""
        account = found.account
        market = HybridMarket(self.deployment)
        oracles = market.decode_prices(self._answer(market.prices_call()))
        head = replace(self.tip, number=found.at.block, timestamp_s=found.at.timestamp_s)
        allowed, after = {
            "flag": (
                account.phase is Phase.HEALTHY and found.fast.breaches(found.flag_level_wad),
                flagged(account, head),
            ),
            "confirm": (
                account.phase is Phase.FLAGGED and isinstance(confirm_alarm(found, oracles), Agree),
                confirmed(account, head),
            ),
            "cure": (found.curable, _healed(account)),
            "clear": (account.phase is Phase.FLAGGED and contradicted(found, oracles), _healed(account)),
            "expire": (found.expirable, _healed(account)),
            "poke": (
                account.phase in {Phase.FLAGGED, Phase.CONFIRMED},
                replace(account, flag=liquidator.poked(account.flag, found.at.timestamp_s)),
            ),
        }[name]
        return (after,) if allowed else ()

    def _sliced(self, found: Assessment, terms: tuple[object, ...]) -> tuple[Account, ...]:
        market = HybridMarket(self.deployment)
        oracles = market.decode_prices(self._answer(market.prices_call()))
        most = terms[4]
        assert isinstance(most, int)
        taker, rules = self.accounts[KEEPER], self.deployment.rules
        slice_ = liquidator.liquidate(found.account, taker, oracles, found.at, rules, max_fraction_wad=most)
        return () if isinstance(slice_, Refuse) else (slice_.account, slice_.taker)

    def taken(self, key: AccountKey) -> None:
        """Have somebody else take all of an account."""
        kinds = [kind for _, kind, _ in load("Liquidator").events["Tranche"].parameters]
        self.put(replace(EMPTY, key=key, cash_wad=WAD))
        blank: dict[str, object] = {"bytes32": key, "address": STRANGER}
        values = [blank.get(kind, [] if kind.endswith("[]") else 0) for kind in kinds]
        self.emit("Liquidator", "Tranche", *values)


def _healed(account: Account) -> Account:
    return replace(account, phase=Phase.HEALTHY, flag=FlagState())


@dataclass
class LendingChain(Reacting):
    """A protocol that lends: loans by account, and a wallet with every token that may be repaid."""

    loans: dict[AccountKey, Any] = field(default_factory=dict)
    held: int = RICH
    """What the wallet has of every token."""

    @property
    def state(self) -> object:
        return dict(self.loans)

    @state.setter
    def state(self, found: object) -> None:
        assert isinstance(found, dict)
        self.loans = dict(found)

    def changed(
        self, loan: Any, where: str, signature: str, indexed: Sequence[str], data: bytes, tx_hash: str = ""
    ) -> None:
        """Change a loan in the newest block, with the event of a contract that says so."""
        self.loans[loan.key] = loan
        topics = (keccak(text=signature), *(bytes.fromhex(each[2:]).rjust(32, b"\0") for each in indexed))
        tip, index = self.tip, len(self.logs)
        self.logs.append(Log(where, topics, data, tip.number, tip.hash, tx_hash or f"0xtx{index}", index))

    def lend(self, loan: Any) -> None:
        """Change a loan in the newest block, with the event of somebody who borrows."""
        raise NotImplementedError

    def amounts(self, loan: Any) -> tuple[int, int]:
        """Return what is held and owed of a loan, each as the protocol counts it."""
        raise NotImplementedError

    def pay_in(self, key: AccountKey, share: float) -> None:
        """Have an owner pay in a share of what was held at first."""
        raise NotImplementedError

    def taken(self, key: AccountKey) -> None:
        """Have somebody else close all of a loan."""
        raise NotImplementedError

    def answered(self, call: Call) -> bytes:
        """Answer what is asked of the protocol's own reader."""
        raise NotImplementedError

    def _answer(self, call: Call) -> bytes:
        if call.to == LENT_READER:
            return self.witnessed()
        purse = abi.load("readers", "PurseReader").functions["purse"]
        if call.data[:4] != purse.selector:
            return self.answered(call)
        _, pockets = decode(purse.inputs, call.data[4:])
        return encode(purse.outputs, [[(self.held, RICH)] * len(pockets)])


@dataclass
class LoanChain(LendingChain):
    """One market of Morpho Blue, by its own integers; its oracle says what its one feed does."""

    pre_share_bps: int = BPS
    """What the oracle of a pre-liquidation says of what that of the market does."""
    nameless: str = ""
    """A feed besides that the oracle of the market divides by, which tells nobody what it is."""
    second_price: int = made.PRICE
    """What the oracle of the second market says."""

    def lend(self, loan: Loan, act: str = "Borrow", tx_hash: str = "") -> None:
        """Change a loan in the newest block, with the event that says so."""
        owner = "0x" + loan.key[:20].hex()
        acts: dict[str, tuple[str, tuple[str, ...], list[str], list[object]]] = {
            "Borrow": (
                "Borrow(bytes32,address,address,address,uint256,uint256)",
                (owner, owner),
                ["address", "uint256", "uint256"],
                [owner, 1, 1],
            ),
            "SupplyCollateral": (
                "SupplyCollateral(bytes32,address,address,uint256)",
                (owner, owner),
                ["uint256"],
                [1],
            ),
            "Liquidate": (
                "Liquidate(bytes32,address,address,uint256,uint256,uint256,uint256,uint256)",
                (STRANGER, owner),
                ["uint256"] * 5,
                [1] * 5,
            ),
        }
        signature, indexed, kinds, values = acts[act]
        self.changed(
            loan, made.MORPHO, signature, ("0x" + made.FIRST.hex(), *indexed), encode(kinds, values), tx_hash
        )

    def named(self, data: bytes) -> str:
        assert data[:4] == LIQUIDATE.selector
        return LIQUIDATE.name

    def carry_out(self, data: bytes, at: ChainTime, tx_hash: str = "") -> bool:
        del at
        _, owner, seized, shares, _ = decode(LIQUIDATE.inputs, data[4:])
        loan = self.loans[bytes.fromhex(owner[2:]) + made.FIRST[:12]]
        market = replace(made.MARKET, price=self._price(made.ETH_USD))
        closed = math.close(loan.position, market, seized=seized, shares=shares)
        if not isinstance(closed, math.Close):
            return False
        if tx_hash:
            left = closed.position
            self.lend(
                replace(loan, collateral=left.collateral, borrow_shares=left.borrow_shares),
                "Liquidate",
                tx_hash,
            )
        return True

    def amounts(self, loan: Any) -> tuple[int, int]:
        return loan.collateral, loan.borrow_shares

    def pay_in(self, key: AccountKey, share: float) -> None:
        loan = self.loans[key]
        more = replace(loan, collateral=loan.collateral + share_of(WAD, share))
        self.lend(more, "SupplyCollateral")

    def taken(self, key: AccountKey) -> None:
        self.lend(replace(self.loans[key], collateral=0, borrow_shares=0), "Liquidate")

    def _price(self, feed: str) -> int:
        del feed
        return self.slow["ETH/USD"] * made.PRICE // (2_000 * WAD)

    def answered(self, call: Call) -> bytes:
        readers = {
            abi.load("readers", "MorphoReader").functions["rows"].selector: self._loans,
            abi.load("readers", "MorphoReader").functions["world"].selector: self._markets,
            abi.load("readers", "MorphoReader").functions["tried"].selector: self._terms,
        }
        return readers[call.data[:4]](call)

    def _loans(self, call: Call) -> bytes:
        rows = abi.load("readers", "MorphoReader").functions["rows"]
        _, keys, *_ = decode(rows.inputs, call.data[4:])
        self.read += keys
        return made.page_of([self.loans.get(key, Loan(key, 0, 0)) for key in keys])

    def _markets(self, call: Call) -> bytes:
        del call
        market, now = made.MARKET, self.tip
        state = [
            market.supply_assets << 128 | market.supply_shares,
            market.borrow_assets << 128 | market.borrow_shares,
            market.updated_at_s << 128 | market.fee_wad,
            2**256 - 1,
            0,
        ]
        price = self._price(made.ETH_USD)
        rounds = [(self.slow["ETH/USD"] // 10**10, self.slow_at_s), (10**8, NOW_S - 600)]
        told = [
            *state,
            *state,
            price,
            price * self.pre_share_bps // BPS,
            self.second_price,
            *(word for each in rounds for word in each),
        ]
        return encode(["uint256[]"], [[now.number, now.timestamp_s, *told]])

    def _terms(self, call: Call) -> bytes:
        answers: dict[tuple[str, str], bytes] = {}
        listed(answers.update)
        if self.nameless:
            answers[made.ORACLE, "QUOTE_FEED_2"] = encode(["address"], [self.nameless])
        return tried_answer(call, answers)
