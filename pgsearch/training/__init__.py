"""Training one trial: it knows nothing of searches, of Ray, or of who keeps its results."""

import os

# A CPU's large tensors in pages of 2 MB, for which torch asks Linux where this says so before its
# first allocation. In pages of 4 kB a step of ResNet-50 spends a sixth of its time on their first
# use, since memory that is freed is given back.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
