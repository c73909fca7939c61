"""Many people's pictures in one denoising batch.

``batched`` takes a request and waits for its pictures. ``texts`` and ``autoencoder`` make of it pictures
``underway``; ``loop`` is the thread that steps them, by a ``denoiser`` that picks batches fairly
(``fairness``, ``batch_sizes``) and puts them together (``composition``); what is done goes to
``decoding``. ``beside`` is the thread for everything that is no step, and ``turns`` keeps the plain diffusers
pipelines, which use the same weights, from stepping at the same moment. Before the first picture,
``compiled_blocks`` compiles the UNet's, where that is wanted, for batches of every kind (``rehearsal``).
"""
