"""How ``enlight/tiny-x4`` was made: ``python -m dreambooth_api.tiny.pretraining.upscaler``.

A ``StableDiffusionUpscalePipeline`` in small, over the pictures, the tokenizer and the text encoder of
``enlight/tiny-sd``. The data flows ``pictures`` → ``autoencoder`` → ``denoiser`` → ``export``, and
``evaluate`` compares the outcome with bicubic enlargement on pictures that no stage has seen.
"""
