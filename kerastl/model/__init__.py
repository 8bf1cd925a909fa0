"""The network: how it is built, loaded with weights, cut in two and frozen."""
