"""Files of many formats, from bytes to columns."""
