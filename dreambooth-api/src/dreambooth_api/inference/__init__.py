"""Drawing: a request is settled against its base model, and its pictures are drawn among those of others.

No Flask here. ``request`` says what to draw, ``admission`` how many may want to, ``engine`` draws: by
``denoising``, where everyone's pictures share batches of steps (``samplers``, ``lora``), or by ``reference``,
plain diffusers, one request at a time. ``picture`` is what comes out. Modules that need torch or diffusers
are imported where the engine is made, so that the service answers ``/healthz`` before they are loaded.
"""
