"""DreamBooth with LoRA as diffusers' `examples/dreambooth/train_dreambooth_lora.py` does it, with its flags:
each step reads and encodes the photos and the prompt anew, peft's layers, AdamW, accelerate. The other side
of `engine_training.py`'s `train_gain` where that script itself is not at hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from PIL.ImageOps import exif_transpose
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm.auto import tqdm


class Photos(Dataset):  # type: ignore[type-arg]
    def __init__(self, folder: Path, prompt: str, tokenizer: Any, size: int) -> None:
        self.images = [
            Image.open(path)
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in (".png", ".jpg", ".jpeg")
        ]
        self.prompt, self.tokenizer = prompt, tokenizer
        self.transforms = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = exif_transpose(self.images[index % len(self.images)]).convert("RGB")
        tokens = self.tokenizer(
            self.prompt, truncation=True, padding="max_length",
            max_length=self.tokenizer.model_max_length, return_tensors="pt",
        )  # fmt: skip
        return {"pixels": self.transforms(image), "ids": tokens.input_ids[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("pretrained_model_name_or_path", "instance_prompt", "lr_scheduler"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("instance_data_dir", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("resolution", "train_batch_size", "max_train_steps", "lr_warmup_steps", "rank", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    args = parser.parse_args()

    accelerator = Accelerator()
    set_seed(args.seed)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        args.pretrained_model_name_or_path, safety_checker=None, dtype=torch.float32
    )
    noiser = DDPMScheduler.from_config(pipeline.scheduler.config)
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False)
        part.to(accelerator.device)
    unet.add_adapter(
        LoraConfig(
            r=args.rank,
            lora_alpha=args.rank,
            init_lora_weights="gaussian",
            target_modules=["to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj"],
        )
    )
    learned = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=args.learning_rate, weight_decay=1e-2, eps=1e-8)
    data = Photos(args.instance_data_dir, args.instance_prompt, pipeline.tokenizer, args.resolution)
    loader = DataLoader(data, batch_size=args.train_batch_size, shuffle=True)
    schedule = get_scheduler(args.lr_scheduler, optimizer, args.lr_warmup_steps, args.max_train_steps)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)

    bar = tqdm(total=args.max_train_steps)
    unet.train()
    while bar.n < args.max_train_steps:
        for batch in loader:
            with accelerator.accumulate(unet):
                latents = vae.encode(batch["pixels"]).latent_dist.sample() * vae.config.scaling_factor
                noise = torch.randn_like(latents)
                levels = torch.randint(
                    0, noiser.config.num_train_timesteps, (len(latents),), device=latents.device
                ).long()
                states = text_encoder(batch["ids"].to(accelerator.device))[0]
                predicted = unet(noiser.add_noise(latents, noise, levels), levels, states, return_dict=False)[
                    0
                ]
                loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(learned, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            bar.update(1)
            bar.set_postfix(loss=loss.detach().item(), lr=schedule.get_last_lr()[0])
            if bar.n >= args.max_train_steps:
                break
    pipeline.save_lora_weights(
        args.output_dir,
        unet_lora_layers=get_peft_model_state_dict(accelerator.unwrap_model(unet).to(torch.float32)),
    )
    accelerator.end_training()


if __name__ == "__main__":
    main()
