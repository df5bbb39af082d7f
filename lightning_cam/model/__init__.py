"""Access to a model: leaving it untouched, finding its logits, finding the part that is the network."""
