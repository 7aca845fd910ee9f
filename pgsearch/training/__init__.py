"""Training one trial: it knows nothing of searches, of Ray, or of who keeps its results."""
