"""The parts of a page, made ready for its template: texts, widths and inline figures, with no decision left open."""
