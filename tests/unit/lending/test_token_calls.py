"""Calls that concern the wallet's own tokens."""

import pytest
from eth_abi.abi import decode, encode

from keeper.lending.routes import Hop, Pool
from keeper.lending.tokens import LENT_READER, approve_call, convert_call, purse, purse_call, redeem_call
from keeper.lending.words import Approve, Convert, Redeem

WETH, DAI, USDC, ROUTER, ME = (f"0x{each * 20}" for each in ("11", "22", "33", "44", "55"))
OWN = bytes.fromhex(ME[2:]) + bytes(12)
FIRST = Hop(Pool("0x" + "01" * 20, WETH, DAI, 500), WETH)
SECOND = Hop(Pool("0x" + "02" * 20, DAI, USDC, 3_000), DAI)
PAIR = Hop(Pool("0x" + "03" * 20, DAI, USDC, None), DAI)


def test_an_approval_is_of_the_amount_and_no_more() -> None:
    call = approve_call(Approve(OWN, WETH, ROUTER, 5))
    assert (call.to, call.data[:4].hex()) == (WETH, "095ea7b3")
    assert decode(["address", "uint256"], call.data[4:]) == (ROUTER, 5)


def test_receipts_are_redeemed_at_their_own_contract() -> None:
    call = redeem_call(Redeem(OWN, DAI, 5))
    assert (call.to, call.data.hex()) == (DAI, "db006a75" + f"{5:064x}")


def test_a_sale_goes_along_pools_of_v3_and_comes_back_to_the_wallet() -> None:
    call = convert_call(Convert(OWN, ROUTER, (FIRST, SECOND), 5, 4, 1_700_000_000))
    assert (call.to, call.data[:4].hex()) == (ROUTER, "c04b8d59")
    [(path, *rest)] = decode(["(bytes,address,uint256,uint256,uint256)"], call.data[4:])
    assert path.hex() == "11" * 20 + "0001f4" + "22" * 20 + "000bb8" + "33" * 20
    assert rest == [ME, 1_700_000_000, 5, 4]


@pytest.mark.parametrize(("route", "found"), [((), "an empty one"), ((FIRST, PAIR), "the pair 0x0303")])
def test_a_sale_the_router_cannot_make_is_refused(route: tuple[Hop, ...], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        convert_call(Convert(OWN, ROUTER, route, 5, 4, 1_700_000_000))


def test_a_purse_is_asked_for_and_read_pocket_by_pocket() -> None:
    call = purse_call(ME, [(WETH, ROUTER), (DAI, ROUTER)])
    assert call.to == LENT_READER
    assert decode(["address", "(address,address)[]"], call.data[4:]) == (ME, ((WETH, ROUTER), (DAI, ROUTER)))
    assert purse(encode(["uint256[2][]"], [[[7, 5], [0, 0]]])) == ((7, 5), (0, 0))
