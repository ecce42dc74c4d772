"""What val decides: temperature, thresholds, prediction sets, and what counts as unlike the training images."""
