"""Parts of `loading.py` and `loading_large.py`: the images, the contenders and the timed pass."""
