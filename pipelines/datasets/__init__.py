"""Data sets as their owners ship them: layouts, class tables, decoding."""
