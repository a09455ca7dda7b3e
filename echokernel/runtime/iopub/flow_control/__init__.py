"""The policy for subscribers that do not read (P3). The core runs without this package."""
