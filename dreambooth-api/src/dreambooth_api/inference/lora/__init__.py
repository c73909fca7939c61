"""LoRA adapters in the UNet and the text encoders: read from files, held, and applied row by row of a batch.

    file ── reading ──▶ AdapterWeights ── host ──▶ HostAdapters (LRU) ── slots ──▶ the device
                                                                                      │
    rows of a batch, each with its adapters ── lora_layers.gather ── buffers ──▶ layers, attention

Rows with adapters of their own get whole weights of their own, made once when they join the batch; a step
then costs what the base model's costs.
"""

from dreambooth_api.inference.lora.host import HostAdapters
from dreambooth_api.inference.lora.lora_layers import Gathered, LoraLayers
from dreambooth_api.inference.lora.names import LayerNames
from dreambooth_api.inference.lora.reading import BadAdapter, read_adapter
from dreambooth_api.inference.lora.slots import NoFreeSlot
from dreambooth_api.inference.lora.text import TextKeysValues
from dreambooth_api.inference.lora.weights import AdapterWeights

__all__ = [
    "AdapterWeights",
    "BadAdapter",
    "Gathered",
    "HostAdapters",
    "LayerNames",
    "LoraLayers",
    "NoFreeSlot",
    "TextKeysValues",
    "read_adapter",
]
