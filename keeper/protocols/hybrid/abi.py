"""The interfaces of HybridMargin's contracts."""

from __future__ import annotations

from functools import partial

from keeper import abi

CONTRACTS = (
    "FastOracle",
    "ChainlinkAdapter",
    "OracleRouter",
    "Vault",
    "Instruments",
    "RiskArrays",
    "RiskSteward",
    "Clearing",
    "MarginEngine",
    "Backstop",
    "Breaker",
    "Slopes",
    "Liquidator",
    "MarginReader",
)
"""The contracts of one deployment, in the order in which they come to be: Liquidator deploys Slopes."""

artifact = partial(abi.artifact, "hybrid")
load = partial(abi.load, "hybrid")
