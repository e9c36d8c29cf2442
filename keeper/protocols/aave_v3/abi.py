"""The interfaces that an Aave v3 pool is spoken to in: our reader's, and signatures of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keeper.abi import Event, Function, artifact, event, function, load

READER: Final[Mapping[str, Function]] = load("readers", "AaveReader").functions

LIQUIDATE: Final = function("liquidationCall(address,address,address,uint256,bool)")
DESCRIPTION: Final = function("description()", "string")
DECIMALS: Final = function("decimals()", "uint8")
NEWEST: Final = function("latestRoundData()", "uint80,int256,uint256,uint256,uint80")

CLOSED: Final = "address indexed collateral, address indexed debt, address indexed user"
REPAID: Final = "address indexed reserve, address indexed user, address indexed repayer"
SUPPLY: Final = "address indexed reserve, address user, address indexed on_behalf_of, uint256 amount"
POOL_EVENTS: Final[tuple[Event, ...]] = tuple(
    map(
        event,
        (
            f"Supply({SUPPLY}, uint16 indexed referral)",
            f"MintUnbacked({SUPPLY}, uint16 indexed referral)",
            f"Borrow({SUPPLY}, uint8 rate_mode, uint256 rate, uint16 indexed referral)",
            f"Repay({REPAID}, uint256 amount, bool by_receipts)",
            "Withdraw(address indexed reserve, address indexed user, address indexed to, uint256 amount)",
            f"LiquidationCall({CLOSED}, uint256 repaid, uint256 seized, address by, bool in_receipts)",
            "ReserveUsedAsCollateralEnabled(address indexed reserve, address indexed user)",
            "ReserveUsedAsCollateralDisabled(address indexed reserve, address indexed user)",
            "UserEModeSet(address indexed user, uint8 category)",
            "SwapBorrowRateMode(address indexed reserve, address indexed user, uint8 rate_mode)",
            "RebalanceStableBorrowRate(address indexed reserve, address indexed user)",
            "DeficitCovered(address indexed reserve, address caller, uint256 amount)",
        ),
    )
)
"""Those that say whose row has changed, of both versions; the names of parameters are ours."""
TRANSFERRED: Final = event(
    "BalanceTransfer(address indexed sender, address indexed receiver, uint256 scaled, uint256 index_ray)"
)
"""Of an aToken: from one account to another."""


def reader_creation() -> bytes:
    """Return the creation code of an AaveReader, for where none is deployed."""
    return bytes.fromhex(artifact("readers", "AaveReader")["bytecode"][2:])


def address(word: int) -> str:
    """Return the address in a word."""
    return f"0x{word & (1 << 160) - 1:040x}"
