"""Trying the keeper where nothing can be lost: a chain of one's own, a crash, and an audit afterwards."""
