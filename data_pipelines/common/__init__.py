"""What every room imports: errors for people, command lines, the contract of a raw set, hashed draws, names as text."""
