"""What convolutional classifiers have in common: logits or stage maps from one forward pass, and the end after the last map."""

from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.nn.classifier import Classifier, global_mean


class StagedClassifier(nn.Module):
    """Base of networks with the fields `num_classes`, `dropout`, `param_dtype` and a compact `forward(image, train, head)`.

    `forward` returns the stage maps, finest first, unless `head`, and else what `classify` makes of the last map.
    """

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b classes"]:
        """Logits in float32, or the pooled features when num_classes is 0."""
        return self.forward(image, train, head=True)

    def stages(self, image: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Array, ...]:
        """The maps that the head of the file lists, finest first."""
        return self.forward(image, train, head=False)

    def check_size(self, image: Float[Array, "b h w c"], stride: int) -> None:
        """Raises ModelError where a side of the image is shorter than `stride`, the factor by which the network shrinks it."""
        if min(image.shape[1:3]) < stride:
            name, given = type(self).__name__, f"{image.shape[1]}x{image.shape[2]}"
            raise ModelError(f"{name} shrinks an image {stride} times: both sides have to be at least {stride}, got {given}")

    def classify(self, x: Float[Array, "b h w c"], train: bool, **options) -> Float[Array, "b classes"]:
        """Global mean, dropout, and a `Classifier` with these options. To be called from `forward`."""
        x = nn.Dropout(self.dropout)(global_mean(x), deterministic=not train)
        return Classifier(self.num_classes, param_dtype=self.param_dtype, **options)(x) if self.num_classes else x
