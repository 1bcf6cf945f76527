"""compfast: trains hundreds of tiny transformers at once and says which solution each learned."""
