"""What of a pipeline is trained, by either method, and how the result is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.nn import Parameter

from dreambooth_api.models.artifact import LORA_WEIGHTS
from dreambooth_api.training import attention
from dreambooth_api.training.lora_products import LoraLinear
from dreambooth_api.training.merged_weights import MergedWeights
from dreambooth_api.training.options import TrainingOptions

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
_CONVOLUTIONS = [
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
]
_UNET_TARGETS = {
    "attention": _ATTENTION,
    "attention+feedforward": _ATTENTION + _FEED_FORWARD,
    "all": _ATTENTION + _FEED_FORWARD + _CONVOLUTIONS,
}
_TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class Learner:
    """The trained parts of a pipeline: the UNet and, on request, the text encoders.

    What is trained is float32 whatever the rest is in: half precision cannot hold steps of a millionth.
    Adapters are initialised from `options.seed`.
    """

    def __init__(self, pipeline: Any, options: TrainingOptions) -> None:
        self.pipeline = pipeline
        self.options = options
        names = ["unet"]
        if options.train_text_encoder:
            names += [
                name
                for name in ("text_encoder", "text_encoder_2")
                if getattr(pipeline, name, None) is not None
            ]
        self.modules: dict[str, Any] = {name: getattr(pipeline, name) for name in names}
        for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
            module = getattr(pipeline, part, None)
            if module is not None:
                module.requires_grad_(False)
                module.eval()
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            for name, module in self.modules.items():
                if options.method == "lora":
                    module.add_adapter(self._lora(name))
                else:
                    module.requires_grad_(True)
                module.train()
                if options.gradient_checkpointing:
                    _checkpoint_gradients(module)
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()
        if options.method == "lora":
            attention.install(pipeline.unet)
            for module in self.modules.values():
                MergedWeights(module)

    def _lora(self, name: str) -> LoraConfig:
        options = self.options
        targets = _UNET_TARGETS[options.lora_targets] if name == "unet" else _TEXT_TARGETS
        config = LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha or options.rank,
            init_lora_weights="gaussian",
            target_modules=targets,
        )
        config._register_custom_module({torch.nn.Linear: LoraLinear})
        return config

    def parameters(self) -> dict[str, Parameter]:
        """What is trained, by `<part>.<name>`."""
        return dict(self._trained())

    def _trained(self) -> Iterator[tuple[str, Parameter]]:
        for part, module in self.modules.items():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    yield f"{part}.{name}", parameter

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the parameters of a checkpoint. Raises KeyError when it is of another model."""
        for name, parameter in self.parameters().items():
            parameter.copy_(weights[name])

    def export(self, folder: Path, *, half: bool) -> None:
        """Write the model's files into `folder`, which is made anew.

        A LoRA is always float32, a few MB. A full fine-tune is the whole pipeline, in fp16 with `half`.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.options.method == "full":
            self.pipeline.to("cpu", torch.float16 if half else torch.float32)
            self.pipeline.save_pretrained(folder, safe_serialization=True)
            return
        layers: dict[str, Any] = {}
        for name, module in self.modules.items():
            state = {
                key: value.detach().float().cpu() for key, value in get_peft_model_state_dict(module).items()
            }
            if name != "unet" and not hasattr(module, "text_model"):
                # transformers 5 left this level out of CLIPTextModel; all readers know the keys with it.
                state = {f"text_model.{key}": value for key, value in state.items()}
            # peft's own names. In the older ones that diffusers' examples convert to, a file that holds both
            # attention and other layers is read back without the attention layers, and without a word.
            layers[f"{name}_lora_layers"] = state
            layers[f"{name}_lora_adapter_metadata"] = module.peft_config["default"].to_dict()
        self.pipeline.save_lora_weights(folder, safe_serialization=True, weight_name=LORA_WEIGHTS, **layers)


def _checkpoint_gradients(module: Any) -> None:
    if hasattr(module, "enable_gradient_checkpointing"):
        module.enable_gradient_checkpointing()  # diffusers' name
    else:
        module.gradient_checkpointing_enable({"use_reentrant": False})  # transformers'
