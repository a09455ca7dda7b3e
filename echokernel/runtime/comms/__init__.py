"""Comms: requests over them, and their end when subscribers disconnect (C1-C7)."""
