"""The figures of ``benchmarks/engine.py``.

``models`` makes what is drawn with, ``drawing`` has our side and the stock one, ``figures`` compares them,
``pairs`` times.
"""
