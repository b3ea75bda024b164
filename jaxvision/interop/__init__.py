"""Weights from and to the outside: timm's and PyTorch's files, the `.npz` of the JAX releases, and StableHLO export."""

from jaxvision.interop.export import Exported, export_model, load_exported
from jaxvision.interop.files import read_arrays
from jaxvision.interop.weights import load_pretrained, load_projected, resize_variables, save_pretrained

__all__ = ["Exported", "export_model", "load_exported", "load_pretrained", "load_projected", "read_arrays", "resize_variables", "save_pretrained"]
