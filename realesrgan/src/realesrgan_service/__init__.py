"""GAN upscaling: any upscaler that spandrel loads, Real-ESRGAN's by default."""
