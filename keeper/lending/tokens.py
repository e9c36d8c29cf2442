"""Tokens of the wallet: what there is and who may take it, in one call; approvals, redemptions and sales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keeper import abi
from keeper.domain import Act, Call
from keeper.lending.routes import Hop
from keeper.lending.words import Approve, Convert, Redeem

LENT_READER: Final = f"0x{b'PurseReader'.hex():0>40}"
"""Where the reader is said to be, for it is deployed nowhere."""
ADDRESS_BYTES: Final = 20
FEE_BYTES: Final = 3
_READER: Final = ("readers", "PurseReader")
_APPROVE: Final = abi.function("approve(address,uint256)")
_REDEEM: Final = abi.function("redeem(uint256)")
_EXACT_INPUT: Final = abi.function("exactInput((bytes,address,uint256,uint256,uint256))")
"""Of Uniswap's SwapRouter: path, recipient, deadline, what is sold and the least that is bought."""


def approve_call(act: Approve) -> Call:
    """Build an approval. Some tokens, Tether among them, refuse one while another is not used up."""
    return _APPROVE.call(act.token, act.spender, act.amount)


def redeem_call(act: Redeem) -> Call:
    """Build the redemption of receipts of Compound v2 or Venus."""
    return _REDEEM.call(act.receipt, act.amount)


def convert_call(act: Convert) -> Call:
    """Build a sale to the wallet itself; raise ValueError where the route has none or a pair of v2 in it."""
    if not act.route:
        raise ValueError("expected a route to sell along, found an empty one")
    path = _address(act.route[0].sells) + b"".join(map(_step, act.route))
    order = (path, act.account[:ADDRESS_BYTES], act.deadline_s, act.amount, act.min_out)
    return _EXACT_INPUT.call(act.router, order)


def encode(act: Act) -> Call | None:
    """Build what is done with tokens of the wallet, the same on every protocol; None for any other act."""
    match act:
        case Approve():
            return approve_call(act)
        case Redeem():
            return redeem_call(act)
        case Convert():
            return convert_call(act)
    return None


def reader_creation() -> bytes:
    """Return the creation code of PurseReader."""
    return bytes.fromhex(abi.artifact(*_READER)["bytecode"][2:])


def purse_call(holder: str, pockets: Sequence[tuple[str, str]], reader: str = LENT_READER) -> Call:
    """Ask for the holder's balance of each token, and what the spender may take of it; ``purse`` reads it."""
    return abi.load(*_READER).functions["purse"].call(reader, holder, list(pockets))


def purse(answer: bytes) -> tuple[tuple[int, int], ...]:
    """Read balance and allowance of each pocket, in units; 0 for what a token does not answer."""
    (found,) = abi.load(*_READER).functions["purse"].result(answer)
    return tuple(found)


def _step(hop: Hop) -> bytes:
    if hop.pool.fee is None:
        raise ValueError(f"expected pools of Uniswap v3, found the pair {hop.pool.address}")
    return hop.pool.fee.to_bytes(FEE_BYTES) + _address(hop.buys)


def _address(token: str) -> bytes:
    return bytes.fromhex(token[2:])
