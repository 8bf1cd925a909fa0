"""Rows that are computed once and kept: arrays on disk and in memory, addressed by what each row is made from."""
