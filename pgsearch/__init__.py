"""pgsearch: search over probability-guided losses for long-tailed multi-label images."""

__version__ = "0.1.0"
