"""Code behind `loading.py` and `loading_large.py`: test images, contenders and the timed pass."""
