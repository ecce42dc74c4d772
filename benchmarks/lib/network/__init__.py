"""A model of data-parallel steps on a network, fitted to and checked against measurements, and its predictions."""
