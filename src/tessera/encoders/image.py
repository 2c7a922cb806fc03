"""Embed items' pictures by what the section `image` names."""

from pathlib import Path

import polars as pl

from tessera.encoders.embedded import Embedded
from tessera.items.fitted import Fitted
from tessera.items.image_encoders import DescriptorEncoder, descriptors
from tessera.items.image_models import distilled, modelled
from tessera.items.vectors import precomputed
from tessera.params import Image
from tessera.places import at_home, found_at_home
from tessera.runtime import accelerator_on, progress

#: How open_clip spells a folder with a model and its checkpoint.
LOCAL = "local-dir:"


def embed_pictures(
    images: Path,
    keys: pl.Series,
    image: Image,
    *,
    backbone: Path,
    device: str,
    known: Fitted | None = None,
    scratch: Path | None = None,
) -> Embedded:
    """Return the vectors of the items with these keys, whose pictures are in the table at images.

    The folder backbone is read only where it is the encoder.

    What the descriptors know already of other pictures is taken as it is; without it, they learn from these. The
    vectors are in memory or, if a folder scratch is given, in a file there.
    """
    nothing_learned = Fitted(image.encoder)
    if image.encoder == "precomputed":
        return Embedded(precomputed(at_home(Path(image.path)), keys, scratch=scratch), {}, nothing_learned)
    if image.encoder == "descriptors":
        learned = descriptors(
            images,
            keys,
            dimensions=image.dimensions,
            batch_size=image.batch_size,
            progress=progress,
            known=DescriptorEncoder.from_fitted(known) if known else None,
        )
        return Embedded(learned.vectors, {}, learned.encoder.fitted() if learned.encoder else nothing_learned)
    if image.encoder == "rq_dino":
        vectors = distilled(
            images,
            keys,
            backbone=backbone,
            batch_size=image.batch_size,
            accelerator=accelerator_on(device, precision="auto"),
            progress=progress,
            scratch=scratch,
        )
        return Embedded(vectors, {}, nothing_learned)
    vectors = modelled(
        images,
        keys,
        library=image.encoder,
        model=_found(image.model, watch=image.watch),
        checkpoint=_found(image.checkpoint, watch=image.watch),
        batch_size=image.batch_size,
        accelerator=accelerator_on(device, precision="auto"),
        progress=progress,
        scratch=scratch,
    )
    return Embedded(vectors, {}, nothing_learned)


def _found(name: str | None, *, watch: str) -> str | None:
    """Return name with the path in it, if it is one or spells local-dir:PATH, as that at home."""
    if name is None:
        return None
    path = name.removeprefix(LOCAL)
    return name.removesuffix(path) + found_at_home(path, watch=watch, key="image.watch")
