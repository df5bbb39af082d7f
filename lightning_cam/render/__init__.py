"""Pictures of maps: tensors on the CPU in, uint8 pictures out.

Called where looks have arrived on the host: on the thread that writes them, so that no training waits for a picture.
"""

from lightning_cam.render.caption import Captions, shown_name
from lightning_cam.render.class_means import class_means
from lightning_cam.render.colormap import colorize
from lightning_cam.render.filmstrip import filmstrip
from lightning_cam.render.grid import encode_jpeg, overlay_grid
from lightning_cam.render.image_caption import ImageCaptions, PartCaptions, ValueCaptions, captions_of
from lightning_cam.render.overlay import no_evidence, overlay
from lightning_cam.render.scale import has_evidence, scale_common, scale_per_image, unnormalize
from lightning_cam.render.tile import to_uint8

__all__ = [
    "Captions",
    "ImageCaptions",
    "PartCaptions",
    "ValueCaptions",
    "captions_of",
    "class_means",
    "colorize",
    "encode_jpeg",
    "filmstrip",
    "has_evidence",
    "no_evidence",
    "overlay",
    "overlay_grid",
    "scale_common",
    "scale_per_image",
    "shown_name",
    "to_uint8",
    "unnormalize",
]
