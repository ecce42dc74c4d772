"""Parts of `engines.py`: the variants, and one rank of them."""
