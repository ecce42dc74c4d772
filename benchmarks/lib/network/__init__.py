"""A model of data-parallel steps on a network: fitting it to measurements, validating it, predicting with it."""
