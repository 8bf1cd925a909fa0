"""Labelled examples from wherever they lie, and their division into train, validation and test."""
