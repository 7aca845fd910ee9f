"""The command line of pgsearch."""
