"""Serve a recommender over HTTP; :mod:`~genrec.serving.http.app` and ``server`` need ``serve``."""
