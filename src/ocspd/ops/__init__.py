"""What every long-running role shows an operator (floor 3)."""
