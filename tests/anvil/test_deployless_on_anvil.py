"""Accounts are read where no reader is deployed, and as many in one call as with one."""

from dataclasses import replace

import pytest

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.domain import Call
from keeper.errors import ChainFault, ConfigError, KeeperError
from keeper.lab.anvil import Node
from keeper.lab.crowd import Crowd, gather
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.market import HybridMarket
from tests.anvil.conftest import GENESIS_S

pytestmark = pytest.mark.anvil

NOWHERE = "0x" + "4e" * 20
ACCOUNTS = 600
CODE_BYTES = 24_576
"""What creation code can return at most (EIP-170)."""


def crowd_of(node: Node) -> Crowd:
    crowd = gather(node, most=ACCOUNTS, start_s=GENESIS_S + 10)
    crowd.grow(ACCOUNTS)
    return crowd


async def test_hundreds_of_accounts_are_read_in_one_call_without_a_reader(anvil: Node) -> None:
    crowd = crowd_of(anvil)
    deployment, keys = crowd.deployed.protocol, crowd.keys(ACCOUNTS)
    here, nowhere = HybridMarket(deployment), HybridMarket(replace(deployment, reader=NOWHERE))
    async with Pool([anvil.http_url]) as pool:
        reader = ChainReader(pool, [anvil.ws_url], [])
        await reader.lend(NOWHERE, codec.reader_creation(deployment.clearing, deployment.liquidator))
        head = await pool.request("eth_getBlockByNumber", ["latest", False])
        calls = [here.rows_call(keys), nowhere.rows_call(keys), here.prices_call(), nowhere.prices_call()]
        rows, lent_rows, prices, lent_prices = await reader.call_many(calls, head["hash"])
        assert await reader.call(nowhere.rows_call(keys[:1]), head["hash"]) == await reader.call(
            here.rows_call(keys[:1]), head["hash"]
        )
    assert len(rows) > 5 * CODE_BYTES
    assert lent_rows == rows
    assert lent_prices == prices
    assert anvil.rpc("eth_getCode", NOWHERE, "latest") == "0x"


@pytest.mark.parametrize(
    ("creation", "error", "why"),
    [("00", ConfigError, "eth_call runs no creation code"), ("5f5ffd", ChainFault, "revert")],
)
async def test_what_creates_nothing_is_not_lent(
    anvil: Node, creation: str, error: type[KeeperError], why: str
) -> None:
    async with Pool([anvil.http_url]) as pool:
        reader = ChainReader(pool, [anvil.ws_url], [])
        with pytest.raises(error, match=why):
            await reader.lend(NOWHERE, bytes.fromhex(creation))
        head = await pool.request("eth_getBlockByNumber", ["latest", False])
        assert await reader.call(Call(NOWHERE, b""), head["hash"]) == b""
