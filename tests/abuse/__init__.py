"""Tests of correctness under abuse: floods, signals, many subscribers, peers without the key.

They assert correctness and bounds of memory, never speed. They take minutes, so only
the full suite runs them (support/tiers.py).
"""
