"""What TensorBoard imports at its start: as little as possible, since an error here would stop it."""

import logging

from tensorboard.plugins import base_plugin

_log = logging.getLogger(__name__)


class CamTimelineLoader(base_plugin.TBLoader):
    """Load the plugin, or leave TensorBoard as it is without it."""

    def load(self, context: base_plugin.TBContext) -> base_plugin.TBPlugin | None:
        """Return the plugin, or None with one logged line if it cannot be loaded."""
        try:
            from lightning_cam.tensorboard_plugin.plugin import CamTimelinePlugin

            return CamTimelinePlugin(context)
        except Exception as error:
            _log.warning("The CAM Timeline tab is not available: %s: %s", type(error).__name__, error)
            return None
