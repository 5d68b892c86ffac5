"""Public releases: what they are called, how they are fetched and unpacked."""
