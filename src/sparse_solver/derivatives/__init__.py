"""Derivative rules, one per file, the formula above the code that uses its symbols."""
