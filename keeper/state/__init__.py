"""The mirror: facts folded into a columnar book, unwound on a reorg, frozen for the trigger."""

from keeper.state.book import Book, Frozen, Marks, marks_at

__all__ = ["Book", "Frozen", "Marks", "marks_at"]
