"""Picture to picture: super-resolution, denoising, deblurring. `supervised` is the plain task, `oftsr` the one-step flow; the rest is shared."""
