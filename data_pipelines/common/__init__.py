"""What the other packages all use: errors, command lines, `RawSet`, counter-based random numbers, names as text."""
