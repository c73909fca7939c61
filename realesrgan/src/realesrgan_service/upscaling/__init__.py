"""How a picture is enlarged: passes of a network, in tiles, and a resampling to the size asked for."""
