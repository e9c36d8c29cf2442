"""What can be drawn, into which files, and what is said where it cannot."""

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from keeper.cli.plots import Plot, drawing, shortened
from keeper.errors import ConfigError


def draw(path: Path) -> bytes:
    with drawing(path) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], [3, 4], label="one")
        axes.legend()
    return path.read_bytes()


@pytest.mark.parametrize(("name", "begin"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_the_same_data_make_the_same_file(name: str, begin: bytes, tmp_path: Path) -> None:
    first = draw(tmp_path / name)
    assert first.startswith(begin)
    assert draw(tmp_path / name) == first
    assert b"matplotlib v" not in first.lower()


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_a_name_of_any_signs_is_drawn_as_it_is(name: str, tmp_path: Path) -> None:
    """Without a word of what the font lacks, and of no formula; warnings would fail the test."""
    with drawing(tmp_path / name) as figure:
        figure.subplots().set_yticks([0, 1], ["日本", r"$\frac$"])
    assert name == "a.png" or r"$\frac$" in (tmp_path / name).read_text()


def test_nothing_is_saved_of_a_drawing_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), drawing(tmp_path / "a.svg"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/a\.svg: No such file or directory"):
        draw(tmp_path / "nowhere" / "a.svg")


def asked(*words: str) -> str:
    app = typer.Typer()

    @app.command()
    def see(*, plot: Plot = None) -> None:
        typer.echo(plot)

    done = CliRunner().invoke(app, [*words])
    if isinstance(done.exception, ConfigError):
        return str(done.exception)
    return done.output


def test_a_plot_is_an_svg_or_a_png_and_asked_for_only() -> None:
    assert asked() == "\n"
    assert asked("--plot", "a.svg") == "a.svg\n"
    assert "expected a file that ends in .svg or .png" in asked("--plot", "a.pdf")


def test_a_folder_that_is_not_there_is_told_before_anything_is_reckoned() -> None:
    assert asked("--plot", "nowhere/a.svg") == "nowhere/a.svg: there is no folder nowhere"


def test_without_the_extra_a_plot_is_refused_before_anything_is_reckoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert asked("--plot", "a.svg") == "to draw needs the extra: pip install 'hybrid-keeper[plots]'"
    assert asked() == "\n"


def test_an_address_leaves_room_for_the_picture_and_other_names_stay_whole() -> None:
    assert shortened(f"0x{'ab' * 19}cd:12") == "0xababab…babcd:12"
    assert shortened("the desk of the market") == "the desk of the market"
