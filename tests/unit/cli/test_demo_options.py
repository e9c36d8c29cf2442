"""Which options belong to which demo: refused before anything is deployed."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from keeper.cli import app
from keeper.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--protocol", "comet"], "expected one of hybrid, .*, all; found comet"),
        (["--protocol", "aave_v3", "--accounts", "30"], "--accounts belongs to the demo of hybrid"),
        (["--protocol", "all", "--kills", "1"], "--kills belongs to the demo of hybrid"),
        (["--protocol", "aave_v3", "--no-false-print"], "belongs to the demo with --protocol all"),
        (["--no-false-print"], "belongs to the demo with --protocol all"),
        (["--protocol", "all", "--seed", "-1"], "--seed must not be negative, found -1"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_an_option_of_another_demo_is_refused(options: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(app, ["demo", *options], catch_exceptions=False)
