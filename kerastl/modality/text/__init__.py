"""Texts: encoded bytes to the pieces of a vocabulary, and back to the characters that they stand for."""
