"""Figures of a model on data that it has not seen."""
