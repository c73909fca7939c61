"""The figures that served_app.py and its tests share; importing the app needs a port."""

THREADS = 16
MAX_BODY_BYTES = 8_000_000  # above what the buffers of a connection take in
