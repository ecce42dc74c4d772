"""The folder of a run and what is kept in it: lock, status, metrics, logs, environment."""
