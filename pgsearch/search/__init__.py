"""The search: an Optuna study rebuilt from the ledger, and Ray Tune to place its trials."""
