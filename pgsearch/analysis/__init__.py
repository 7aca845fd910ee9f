"""From the ledger to what people read; no torch, no Ray."""
