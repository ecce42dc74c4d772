"""Code behind `union_heads.py`: phantom sets that name findings in their own ways, training, tables and figure."""
