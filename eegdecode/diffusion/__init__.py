"""Drawing pictures from embeddings by diffusion. The only package that knows `diffusers`."""
