"""What is asked of other protocols' deployments before they are kept."""

import pytest

from keeper.deployments import MorphoDeployment
from keeper.doctor.foreign import IS_PRE_LIQUIDATION, expect_made
from keeper.errors import ConfigError

MORPHO, FACTORY, OURS, THEIRS = (f"0x{each * 20}" for each in ("b0", "fa", "0a", "0b"))


def deployment(*pres: str, factory: str | None = FACTORY) -> MorphoDeployment:
    return MorphoDeployment(
        protocol="morpho_blue",
        morpho=MORPHO,
        markets=("0x" + "01" * 32,),
        pre_liquidations=pres,
        pre_liquidation_factory=factory,
    )


def carry_out(named: MorphoDeployment) -> int:
    """Answer that only one contract was made by the factory; return how many were asked about."""
    rounds, asked = expect_made(named), 0
    try:
        calls = next(rounds)
        while True:
            asked += len(calls)
            assert {call.to for call in calls} == {FACTORY}
            known = IS_PRE_LIQUIDATION.call(FACTORY, OURS)
            calls = rounds.send([int(call == known).to_bytes(32) for call in calls])
    except StopIteration:
        return asked


def test_a_pre_liquidation_contract_must_come_from_the_factory_that_is_named() -> None:
    assert carry_out(deployment(OURS)) == 1
    with pytest.raises(ConfigError, match=f"{THEIRS} was not made by the factory {FACTORY}"):
        carry_out(deployment(OURS, THEIRS))


def test_without_a_factory_or_without_such_contracts_nothing_is_asked() -> None:
    assert carry_out(deployment(THEIRS, factory=None)) == 0
    assert carry_out(deployment()) == 0
