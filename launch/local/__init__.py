"""Several processes on this machine, as several hosts would run them: for tests, and to try a sharding."""
