"""Architectures, one family a file. `create_model(name)` builds a linen module; `list_models()` says which there are."""

from jaxvision.models.registry import Variant, count_parameters, create_model, list_models, variant_of

__all__ = ["Variant", "count_parameters", "create_model", "list_models", "variant_of"]
