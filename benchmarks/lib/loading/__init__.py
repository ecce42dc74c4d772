"""Parts of `loading.py`: the images, the contenders and the timed pass."""
