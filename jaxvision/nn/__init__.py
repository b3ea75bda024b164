"""Layers that at least two models share. Compute in `dtype`, parameters in `param_dtype`; norms and softmax in float32."""
