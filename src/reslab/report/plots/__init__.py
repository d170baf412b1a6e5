"""Figures: functions that take plain data and return a matplotlib Figure; none of them saves or shows it."""
