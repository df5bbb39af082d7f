"""A model as it came: leaving it untouched, where its output stands, which part is the network."""
