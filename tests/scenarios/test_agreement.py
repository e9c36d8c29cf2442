"""No sequence of inputs takes anything of an account that both clocks did not agree on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keeper.confirm.policy import BALANCED, PRESETS, Policy
from keeper.domain import EventKind
from tests.scenarios.refusals import blind
from tests.scenarios.stage import AAVE, HYBRID, MORPHO, PROTOCOLS, SIGHTED, Beat, Stage

SHARES = st.sampled_from([0.7, 0.9, 0.94, 0.96, 0.98, 1.0, 1.04])
"""On both sides of the edge, and as far apart as no policy believes."""
ROUNDED = 1e-4
"""Interest of these blocks, and what integers round off."""


class Weather(RuleBasedStateMachine):
    """All that can come at a keeper, in any order; it may begin anywhere in a fall."""

    protocol: str
    policy: Policy
    is_blind = False
    """Whether the protocol's price hangs on a feed besides that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run one piece of work to its end."""
        return self.loop.run(work)

    @initialize(share=st.sampled_from([0.94, 0.96]), blocks=st.integers(0, 7))
    def begin(self, share: float, blocks: int) -> None:
        self.run(self._begin(share, blocks))

    async def _begin(self, share: float, blocks: int) -> None:
        self.stage = Stage(Path(self.folder.name) / "journal.sqlite", self.protocol, self.policy)
        self.stage.desk.tide = SIGHTED
        if self.is_blind:
            blind(self.stage)
        self.stage.open()
        await self.stage.play([Beat(), Beat(fast=share, chain=share, times=blocks)])

    @rule(fast=SHARES, chain=SHARES, posted=st.booleans())
    def both_clocks_move(self, fast: float, chain: float, posted: bool) -> None:
        self.run(self.stage.block(Beat(fast=fast, chain=chain, posted=posted)))

    @rule(share=SHARES, reverts=st.booleans())
    def one_clock_moves(self, share: float, reverts: bool) -> None:
        self.run(self.stage.block(Beat(fast=share, reverts=reverts)))

    @rule(share=SHARES)
    def the_other_one_does(self, share: float) -> None:
        self.run(self.stage.block(Beat(chain=share)))

    @rule(age_s=st.sampled_from([0, 12, 30, 4_000, 100_000]), silent=st.booleans())
    def an_answer_ages(self, age_s: int, silent: bool) -> None:
        self.run(self.stage.block(Beat(aged_s=age_s, silent=silent)))

    @rule(times=st.integers(1, 3), mined=st.booleans(), restart=st.booleans())
    def time_passes(self, times: int, mined: bool, restart: bool) -> None:
        self.run(self.stage.play([Beat(mined=mined, restart=restart, times=times)]))

    @rule(shares=st.lists(SHARES, min_size=1, max_size=3))
    def ticks_come(self, shares: list[float]) -> None:
        self.run(self.stage.block(Beat(ticks=tuple(shares))))

    @precondition(lambda self: len(self.stage.chain.heads) > 4)
    @rule(depth=st.integers(1, 2), mined=st.booleans())
    def blocks_are_taken_back(self, depth: int, mined: bool) -> None:
        self.run(self.stage.block(Beat(reorg=depth, mined=mined)))

    @rule(deposit=st.sampled_from([0.05, 0.5]))
    def the_owner_pays_in(self, deposit: float) -> None:
        self.run(self.stage.block(Beat(deposit=deposit)))

    @invariant()
    def whatever_took_something_rests_on_an_agreement(self) -> None:
        for tx_hash, reserved in self.stage.taking().items():
            assert reserved is not None, f"{tx_hash} was never reserved"
            assert reserved.kind is EventKind.RESERVED
            assert reserved.data["agreed"]["policy"], reserved.data
            assert reserved.data["agreed"]["evidence"]

    @invariant()
    def nothing_is_taken_that_the_protocol_s_own_price_does_not_show(self) -> None:
        for tx_hash in self.stage.taking():
            said = self.stage.chain.said[tx_hash]
            edge = said.edge * (1 + ROUNDED)
            assert said.chain < edge, "the protocol's own price showed no breach"
            if self.protocol != HYBRID:
                assert said.fast is not None, "nobody but the protocol's own source spoke"
                assert said.fast < edge, "the fast price cleared it"

    @invariant()
    def nothing_is_taken_of_who_hangs_on_a_price_that_nobody_else_speaks_of(self) -> None:
        assert not (self.is_blind and self.stage.taking())

    def teardown(self) -> None:
        try:
            if hasattr(self, "stage"):
                assert self.run(self.stage.replayed()) == []
        finally:
            self.loop.close()
            self.folder.cleanup()


@pytest.mark.parametrize("policy", PRESETS, ids=lambda policy: policy.name)
@pytest.mark.parametrize("protocol", [*PROTOCOLS, AAVE])
def test_no_weather_has_anything_taken_without_an_agreement(protocol: str, policy: Policy) -> None:
    # However many examples: of each preset on each protocol some, most of which take something.
    run_state_machine_as_test(
        type("WeatherHere", (Weather,), {"protocol": protocol, "policy": policy}),
        settings=settings(max_examples=6, stateful_step_count=10, deadline=None),
    )


@pytest.mark.parametrize(
    ("protocol", "policy"),
    [*((MORPHO, policy) for policy in PRESETS), (AAVE, BALANCED)],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_no_weather_has_anything_taken_that_hangs_on_a_price_nobody_else_speaks_of(
    protocol: str, policy: Policy
) -> None:
    run_state_machine_as_test(
        type("BlindWeather", (Weather,), {"protocol": protocol, "policy": policy, "is_blind": True}),
        settings=settings(max_examples=3, stateful_step_count=10, deadline=None),
    )
