"""The two phases, and what they have in common."""
