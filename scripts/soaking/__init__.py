"""What ``scripts/soak.py`` does to the commands: kills, faults, flipped bits and fuzzed inputs."""
