"""What is each item's semantic ID? Quantizer, losses, fitting, collisions and code statistics."""
