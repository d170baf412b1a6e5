"""Plain data made into figures, tables and self-contained pages; the only package that imports matplotlib."""
