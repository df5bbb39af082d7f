"""The "CAM Timeline" tab of TensorBoard: imports tensorboard and werkzeug, never torch."""
