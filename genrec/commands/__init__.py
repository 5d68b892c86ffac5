"""The commands of ``genrec``, one module each; all of them call the library."""
