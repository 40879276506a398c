"""Other networks to compare SepViT with: their formulas, how to build them, their speed."""
