"""What the machine has, which of its devices are visible, and how workers share them."""
