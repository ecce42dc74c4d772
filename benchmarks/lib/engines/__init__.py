"""Code behind `engines.py`: the variants compared, and one rank of a run."""
