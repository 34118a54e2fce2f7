"""What hits say: numbers, text and a page."""
