"""Drawing: a request is settled against its base model, queued, drawn by diffusers and encoded.

No Flask here. ``request`` says what to draw, ``queue`` when, ``engine`` draws, ``picture`` encodes.
Modules that need torch or diffusers are imported where the engine is made, so that the service
answers ``/healthz`` before they are loaded.
"""
