"""The report of a study: read its tables, render a notebook template, write a self-contained page."""
