"""The chart and what is generated for it; no part of the package."""
