"""Numbers as people read them."""

from __future__ import annotations

import pytest

from keeper.units import in_figures


@pytest.mark.parametrize(
    ("number", "most", "said"),
    [
        (10_000_000.0, 6, "10,000,000"),
        (12_345_678.9, 6, "12,345,679"),
        (999_999.5, 6, "1,000,000"),
        (1_234.5678, 6, "1,234.57"),
        (1_234.5678, 8, "1,234.5678"),
        (0.5, 6, "0.5"),
        (0.00002, 6, "0.00002"),
        (-20_000_000.0, 6, "-20,000,000"),
        (0.0, 6, "0"),
    ],
)
def test_a_number_is_written_with_its_figures_and_no_powers_of_ten(
    number: float, most: int, said: str
) -> None:
    assert in_figures(number, most) == said
