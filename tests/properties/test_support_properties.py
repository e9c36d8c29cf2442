"""No price that an account hangs on counts by the protocol's own word alone, whatever else is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from keeper.confirm.policy import BALANCED, PRESETS, tuned
from keeper.confirm.weigh import Evidence, weigh
from keeper.domain import Agree, ChainTime, Unknown, Witnessed
from keeper.lending.words import Sight
from keeper.units import WAD, FeedId, Wad

AT = ChainTime(1_000, 1_000_000)
BLOCK_S = 12
FEEDS = ("BTC/USD", "ETH/USD", "EUR/USD")
AGES = st.sampled_from([0, 12, 24, 36, 48, 600])
PRICES = st.sampled_from([50, 90, 99, 100, 101, 110]).map(lambda percent: percent * WAD // 100)
POLICIES = st.sampled_from([*PRESETS, tuned(BALANCED, trust_chain_after_s=24)])


@dataclass(frozen=True)
class Price:
    """One that the account hangs on: traced to a feed, or to none."""

    sight: Sight | None
    others: tuple[Witnessed | Unknown, ...]

    @property
    def is_borne_out(self) -> bool:
        """Whether anybody but the protocol speaks of it."""
        speaks = any(isinstance(each, Witnessed) for each in self.others)
        return self.sight is not None and (self.sight.fast_wad is not None or speaks)


def ago(seconds: int) -> ChainTime:
    return ChainTime(AT.block - seconds // BLOCK_S, AT.timestamp_s - seconds)


@st.composite
def price(draw: st.DrawFn, feed: FeedId) -> Price:
    if draw(st.booleans()) and draw(st.booleans()):
        return Price(None, ())
    at_s = draw(st.one_of(st.just(0), AGES.map(lambda age_s: AT.timestamp_s - age_s)))
    witness = st.one_of(
        st.just(Unknown("pool", "no history")),
        st.builds(Witnessed, st.just("pool"), PRICES, st.just(AT.timestamp_s), st.just(3_600), st.just(WAD)),
    )
    others = draw(st.lists(witness, max_size=2))
    return Price(Sight(feed, draw(st.one_of(st.none(), PRICES)), WAD, at_s), tuple(others))


def always_in_breach(prices: Mapping[FeedId, Wad]) -> Wad:
    del prices
    return WAD - 1


@given(
    prices=st.tuples(*map(price, FEEDS)),
    held=st.integers(0, len(FEEDS)),
    policy=POLICIES,
    alarmed_s=AGES,
    shown_s=st.one_of(st.none(), AGES),
)
def test_what_nobody_else_speaks_of_counts_by_an_own_word_alone_and_once_it_has_stood(
    prices: tuple[Price, ...], held: int, policy: object, alarmed_s: int, shown_s: int | None
) -> None:
    some, own = prices[:held], policy
    verdict = weigh(
        own,  # type: ignore[arg-type]
        ago(alarmed_s),
        Evidence(
            bytes(32),
            "in breach at every price",
            chain=True,
            fast=True,
            sights=[each.sight for each in some if each.sight],
            health_at=always_in_breach,
            unseen=[f"token {number}" for number, each in enumerate(some) if not each.sight],
            witnesses={each.sight.feed: each.others for each in some if each.sight},
            shown=None if shown_s is None else ago(shown_s),
        ),
        AT,
        BLOCK_S,
    )
    alone = [each for each in some if not each.is_borne_out]
    if isinstance(verdict, Agree) and (alone or not some):
        assert verdict.policy == "balanced (own trust_chain_after_s)"
        answered = [AT.timestamp_s - each.sight.answered_at_s for each in alone if each.sight]
        tell_it = alone and len(answered) == len(alone) and max(answered) < AT.timestamp_s
        stood_s = max(shown_s or 0, min(answered) if tell_it else 0)
        assert stood_s >= 24 + BLOCK_S
