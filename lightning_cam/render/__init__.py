"""Pictures of maps: tensors on the CPU in, uint8 pictures out.

Called on the thread that writes looks, after they have arrived on the host, so that training never waits for a picture.
"""

from lightning_cam.render.caption import Captions, shown_name
from lightning_cam.render.class_means import class_means
from lightning_cam.render.colormap import colorize
from lightning_cam.render.filmstrip import filmstrip
from lightning_cam.render.grid import encode_jpeg, overlay_grid
from lightning_cam.render.image_caption import ImageCaptions, PartCaptions, ValueCaptions, captions_of
from lightning_cam.render.overlay import color_overlay, no_evidence, overlay
from lightning_cam.render.scale import has_evidence, scale_common, scale_per_image, to_colors, unnormalize
from lightning_cam.render.tile import to_uint8

__all__ = [
    "Captions",
    "ImageCaptions",
    "PartCaptions",
    "ValueCaptions",
    "captions_of",
    "class_means",
    "color_overlay",
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
    "to_colors",
    "to_uint8",
    "unnormalize",
]
