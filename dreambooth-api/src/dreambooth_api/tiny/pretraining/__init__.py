"""How ``enlight/tiny-sd`` and its companions were made: ``python -m dreambooth_api.tiny.pretraining``."""
