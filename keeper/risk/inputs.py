"""What the formulas of this room take: a check names what was expected, and what was found instead.

Each returns its input as float64, and raises BadInput where it is not finite or not what it must be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keeper.errors import BadInput

Floats: TypeAlias = NDArray[np.float64]


def finite(name: str, value: ArrayLike, *dimensions: int) -> Floats:
    """Return an array all of which is finite and some of it there, of one of so many dimensions if told."""
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} must be numbers: {error}") from error
    if dimensions and found.ndim not in dimensions:
        wanted = " or ".join(str(each) for each in dimensions)
        raise BadInput(f"{name} must have {wanted} dimensions, found the shape {list(found.shape)}")
    if not found.size:
        raise BadInput(f"{name} must not be empty")
    if not np.isfinite(found).all():
        raise BadInput(f"{name} must be finite, found {found[~np.isfinite(found)].flat[0]}")
    return found


def mask(name: str, value: ArrayLike) -> NDArray[np.bool_]:
    """Return an array of true and false; 1 and 0 stand for them, and nothing else does."""
    found = np.asarray(value)
    if found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        raise BadInput(f"{name} must be true or false, found {value!r}")
    return found.astype(np.bool_)


def together(**values: ArrayLike) -> None:
    """Raise BadInput where shapes do not broadcast against each other."""
    try:
        np.broadcast_shapes(*(np.shape(value) for value in values.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in values.items())
        raise BadInput(f"shapes must broadcast, found {shapes}") from None


def within(name: str, value: ArrayLike, least: float, most: float) -> Floats:
    """Return an array that lies in [least, most]."""
    return _all(
        name, value, lambda found: (found >= least) & (found <= most), f"lie in [{least:g}, {most:g}]"
    )


def between(name: str, value: ArrayLike, least: float, most: float) -> Floats:
    """Return an array that lies in (least, most), without its ends."""
    return _all(name, value, lambda found: (found > least) & (found < most), f"lie in ({least:g}, {most:g})")


def positive(name: str, value: ArrayLike) -> Floats:
    """Return an array that is above 0."""
    return _all(name, value, lambda found: found > 0, "be above 0")


def not_negative(name: str, value: ArrayLike) -> Floats:
    """Return an array that is 0 or above."""
    return _all(name, value, lambda found: found >= 0, "not be negative")


def scalar(name: str, value: Floats) -> float:
    """Return the one number that was checked."""
    if value.ndim:
        raise BadInput(f"{name} must be one number, found the shape {list(value.shape)}")
    return float(value)


def probability(name: str, value: float) -> float:
    """Return one number strictly between 0 and 1."""
    return scalar(name, between(name, value, 0.0, 1.0))


def count(name: str, value: SupportsIndex | float, least: int = 1, most: int | None = None) -> int:
    """Return a whole number of at least, and at most, so many; a float may hold it, as sums do."""
    bounds = f"of at least {least}" if most is None else f"in [{least}, {most}]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise BadInput(f"{name} must be a whole number {bounds}, found {value!r}") from error
    if found < least or (most is not None and found > most):
        raise BadInput(f"{name} must be a whole number {bounds}, found {found}")
    return found


def shaped(name: str, value: Floats, *shape: int | None) -> Floats:
    """Return an array of a shape; None stands for any length."""
    same = value.ndim == len(shape) and all(
        want in {None, have} for want, have in zip(shape, value.shape, strict=True)
    )
    if not same:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise BadInput(f"{name} must have the shape [{wanted}], found {list(value.shape)}")
    return value


def one_or(name: str, value: ArrayLike, length: int) -> Floats:
    """Return one number, or an array of so many."""
    found = finite(name, value)
    return found if found.ndim == 0 else shaped(name, found, length)


def symmetric(name: str, value: ArrayLike) -> Floats:
    """Return a symmetric matrix [i, i]; of what rounding leaves between its halves, the mean."""
    found = finite(name, value, 2)
    shaped(name, found, len(found), len(found))
    if not np.allclose(found, found.T, rtol=1e-9, atol=1e-12 * np.abs(found).max()):
        raise BadInput(f"{name} must be symmetric")
    return np.asarray((found + found.T) / 2)


def positive_semidefinite(name: str, value: ArrayLike) -> Floats:
    """Return a symmetric matrix [i, i] none of whose eigenvalues is below 0 by more than rounding."""
    found = symmetric(name, value)
    eigenvalues = np.linalg.eigvalsh(found)
    if eigenvalues[0] < -1e-9 * max(eigenvalues[-1], 0.0):
        raise BadInput(f"{name} must be positive semidefinite, found the eigenvalue {eigenvalues[0]:.3g}")
    return found


def _all(name: str, value: ArrayLike, fits: Callable[[Floats], NDArray[np.bool_]], must: str) -> Floats:
    found = finite(name, value)
    fit = fits(found)
    if not fit.all():
        raise BadInput(f"{name} must {must}, found {found[~fit].flat[0]}")
    return found
