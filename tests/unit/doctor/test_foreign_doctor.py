"""What is asked of somebody else's deployment before a keeper runs, and what each answer is called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode

from keeper import abi
from keeper.chain.rpc import Unreachable
from keeper.config import Config, load
from keeper.deployments import AaveDeployment
from keeper.doctor import foreign
from keeper.doctor.finding import Finding, Mark, NoDeployment
from keeper.domain import Call, Head
from keeper.errors import ChainFault, ConfigError
from keeper.lending import flash, tokens

POOL, OURS, LENDER, WALLET, OTHER = ("0x" + each * 20 for each in ("11", "22", "33", "44", "55"))
NOBODY = "0x" + "00" * 20
CODE = "0x" + "66" * 20
HEAD = Head(7, "0x" + "77" * 32, "0x" + "88" * 32, 1_700_000_000, 10**9)
FUNCTIONS = abi.load(*flash.CONTRACT).functions


@dataclass
class Node:
    """Answers calls by contract and selector, storage by address; whatever is an exception it raises."""

    answers: dict[tuple[str, bytes], bytes | Exception] = field(default_factory=dict)
    code: str = NOBODY
    beacon: str = NOBODY
    is_bare: bool = False
    """Which tells the code, where there is one."""

    def tell(self, function: abi.Function, *values: object) -> None:
        self.answers[OURS, function.selector] = encode(function.outputs, values)

    async def call(self, call: Call, at_hash: str) -> bytes:
        assert at_hash == HEAD.hash
        answer = self.answers.get((call.to, call.data[:4]), ChainFault("execution reverted"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        return [await self.call(each, at_hash) for each in calls]

    async def lend(self, address: str, creation: bytes) -> None:
        pass

    async def request(self, method: str, params: Sequence[object]) -> str:
        if method == "eth_getCode":
            assert params[0] == POOL
            return "0x" if self.is_bare else "0x60"
        if method == "eth_call":
            found = self.code
            assert params[0] == {"to": self.beacon, "data": "0x" + foreign.IMPLEMENTATION.selector.hex()}
        else:
            assert (method, params[0]) == ("eth_getStorageAt", POOL)
            stored = NOBODY if self.beacon != NOBODY else self.code
            found = {foreign.IMPLEMENTATION_SLOT: stored, foreign.BEACON_SLOT: self.beacon}[str(params[1])]
        return "0x" + found[2:].rjust(64, "0")


@dataclass
class Market:
    """Some tokens, each with who takes it."""

    spending: tuple[tuple[str, str], ...] = ((OTHER, POOL), (LENDER, POOL))
    tokens: tuple[str, ...] = (OTHER, LENDER)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    lines = [
        *("[chain]", 'http = "http://127.0.0.1:1"', 'ws = "ws://127.0.0.1:1"', "chain_id = 1"),
        *("[deployment]", 'protocol = "aave_v3"', f'pool = "{POOL}"', f'implementation = "{CODE}"'),
        *("[feed]", 'path = "prices.csv"', "[closing]", f'liquidator = "{OURS}"'),
    ]
    (tmp_path / "keeper.toml").write_text("\n".join(lines))
    return load(tmp_path / "keeper.toml")


@pytest.fixture
def node() -> Node:
    """A FlashLiquidator that the wallet operates, and that borrows from Morpho."""
    found = Node()
    found.tell(FUNCTIONS["operator"], WALLET)
    found.tell(FUNCTIONS["morpho"], LENDER)
    return found


async def listed(findings: AsyncIterator[Finding]) -> dict[str, Finding]:
    return {each.what: each async for each in findings}


# --- the deployment -------------------------------------------------------------------------------


def asking(answer: Exception | None) -> foreign.Finder[Any]:
    def rounds(named: AaveDeployment, reader: str) -> Generator[list[Call], list[bytes], Any]:
        assert reader == OURS
        yield [Call(named.pool, b"pool")]
        if answer:
            raise answer
        return Market()

    return foreign.finder(AaveDeployment, OURS, lambda _: b"", rounds)


async def test_what_does_not_answer_as_it_should_is_no_deployment(config: Config) -> None:
    node: Any = Node({(POOL, b"pool"): b""})
    assert await asking(None)(node, config, HEAD) == Market()
    with pytest.raises(NoDeployment, match="expected another revision") as other:
        await asking(ConfigError("expected another revision"))(node, config, HEAD)
    assert other.value.mend == "correct [deployment], or use another node"
    with pytest.raises(NoDeployment) as none:
        await asking(ChainFault("no pool"))(node, config, HEAD)
    told = f"deployment.pool {POOL} does not answer as one of aave_v3: no pool"
    assert (none.value.found, none.value.mend) == (told, "correct [deployment], or chain.chain_id")
    with pytest.raises(Unreachable):
        await asking(Unreachable("timed out"))(node, config, HEAD)


@pytest.mark.parametrize(("code", "bad"), [(CODE, False), (OTHER, True), (NOBODY, True)])
@pytest.mark.parametrize("beacon", [NOBODY, OTHER])
async def test_other_code_than_what_is_trusted_is_bad(
    config: Config, code: str, beacon: str, *, bad: bool
) -> None:
    node: Any = Node(code=code, beacon=beacon)
    assert isinstance(config.deployment, AaveDeployment)
    found = await listed(foreign.look_at_code(node, config.deployment))
    assert [each.mark for each in found.values()] == [Mark.BAD] * bad
    trusting_none = config.deployment.model_copy(update={"implementation": None})
    assert await listed(foreign.look_at_code(node, trusting_none)) == {}
    node.is_bare = True
    bare = await listed(foreign.look_at_code(node, trusting_none))
    assert bare["code"].found == f"no code at deployment.pool {POOL}"


# --- what there is to act with --------------------------------------------------------------------


async def expected(node: Any, config: Config) -> None:
    await foreign.expect_operator(node, config, WALLET, HEAD)


async def test_a_flash_liquidator_is_operated_by_the_wallet_and_can_borrow(
    node: Node, config: Config
) -> None:
    await expected(node, config)
    node.tell(FUNCTIONS["operator"], OTHER)
    with pytest.raises(ConfigError, match=f"is operated by {OTHER}, not by {WALLET}"):
        await expected(node, config)
    node.tell(FUNCTIONS["operator"], WALLET)
    node.tell(FUNCTIONS["morpho"], NOBODY)
    with pytest.raises(ConfigError, match="knows no lender morpho"):
        await expected(node, config)
    for answer in (b"", ChainFault("execution reverted")):
        node.answers[OURS, FUNCTIONS["morpho"].selector] = answer
        with pytest.raises(ConfigError, match="does not answer as a FlashLiquidator"):
            await expected(node, config)
    node.answers[OURS, FUNCTIONS["morpho"].selector] = Unreachable("timed out")
    with pytest.raises(Unreachable):
        await expected(node, config)


async def looked_at(node: Any, config: Config) -> dict[str, Finding]:
    market: Any = Market()
    return await listed(foreign.look_at_purse(market, config, WALLET, node, HEAD))


async def test_where_nothing_that_is_seized_can_be_sold_the_doctor_warns(node: Node, config: Config) -> None:
    found = await looked_at(node, config)
    assert {what: each.mark for what, each in found.items()} == {
        "FlashLiquidator": Mark.OK,
        "exchange": Mark.WARN,
    }
    assert found["exchange"].mend == "name exchange.uniswap_v3 and exchange.bridges"
    node.tell(FUNCTIONS["operator"], OTHER)
    found = await looked_at(node, config)
    assert {what: each.mark for what, each in found.items()} == {"FlashLiquidator": Mark.BAD}


@pytest.mark.parametrize(("balance", "mark"), [(0, Mark.WARN), (1, Mark.OK)])
async def test_a_wallet_that_pays_needs_something_to_pay_with(
    config: Config, balance: int, mark: Mark
) -> None:
    paying = config.model_copy(update={"closing": config.closing.model_copy(update={"liquidator": None})})
    call = tokens.purse_call(WALLET, Market().spending)
    reader = abi.load("readers", "PurseReader").functions
    [purse] = [each for each in reader.values() if each.selector == call.data[:4]]
    node = Node({(call.to, purse.selector): encode(purse.outputs, ([[0, 0], [balance, 0]],))})
    [found] = (await looked_at(node, paying)).values()
    assert (found.what, found.mark) == ("purse", mark)
    assert found.found == f"{balance} of 2 tokens that may be owed"
