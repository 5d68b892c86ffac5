"""One reader a release or format, each found by the registry."""
