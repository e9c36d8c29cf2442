"""Exact numbers of many accounts side by side: wide cells, columns that are lent, ragged rows, keys; pure."""
