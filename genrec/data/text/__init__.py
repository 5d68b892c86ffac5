"""The items in words and in vectors."""
