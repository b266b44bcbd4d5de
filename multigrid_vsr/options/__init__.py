"""An option file's text to checked options: on the standard library and PyYAML alone."""
