"""Pictures of what a command found, drawn by matplotlib where the extra ``plots`` is installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keeper.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".svg", ".png")
MOST_LETTERS = 24
"""Of an account's name, beside a bar."""
INK, MUTED, GRID = "#22272e", "#6e7781", "#e3e6ea"
BLUE, RED, AMBER, GREEN = "#2563a8", "#c2341d", "#d98e04", "#3a8558"
"""Told apart by the colour-blind as well, and on paper."""
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": f"cycler('color', {[BLUE, RED, AMBER, GREEN]})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "large",
    "date.converter": "concise",
    "font.size": 10,
    "grid.color": GRID,
    "legend.frameon": False,
    "savefig.dpi": 144,
    # The same data make the same file, byte by byte.
    "svg.hashsalt": "keeper",
    # An account may be called $x$: that is no formula.
    "text.parse_math": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def _can_be_drawn(path: Path | None) -> Path | None:
    """Refuse at once what could not be drawn at the end."""
    if path is None:
        return None
    if path.suffix not in KINDS:
        raise typer.BadParameter(f"expected a file that ends in {' or '.join(KINDS)}, found {path}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}")
    if find_spec("matplotlib") is None:
        raise ConfigError("to draw needs the extra: pip install 'hybrid-keeper[plots]'")
    return path


Plot = Annotated[
    Path | None, typer.Option(help="Draw it into this file, .svg or .png.", callback=_can_be_drawn)
]


def shortened(account: str) -> str:
    """Say an account beside a bar: an address by both of its ends, so that room is left to draw in."""
    return account if len(account) <= MOST_LETTERS else f"{account[:8]}…{account[-8:]}"


@contextmanager
def drawing(path: Path, *, height_in: float = 4.5) -> Iterator[Figure]:
    """Give a figure to draw into, 8 inches wide, and save it at the end.

    Raises ConfigError where the file cannot be written.
    """
    # Without pyplot there are no windows, and nothing of one picture is left for the next.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE), warnings.catch_warnings():
        # Names are drawn as far as the font has their signs; a box stands for each of the others.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure = Figure(figsize=(8, height_in), layout="constrained")
        yield figure
        # Neither the hour nor the library's version is part of the picture.
        unsaid = {".svg": ("Date", "Creator"), ".png": ("Software",)}[path.suffix]
        try:
            figure.savefig(path, metadata=dict.fromkeys(unsaid))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
