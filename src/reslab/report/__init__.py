"""Plain data made into figures, tables and self-contained pages; the only room that imports matplotlib."""
