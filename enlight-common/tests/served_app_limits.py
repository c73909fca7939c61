"""The figures that served_app.py and its tests share; importing the app needs a port."""

THREADS = 16
MAX_BODY_BYTES = 1_000_000
