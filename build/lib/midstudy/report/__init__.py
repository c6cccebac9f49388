"""The report of a study: its tables read from the store, figures, an executed notebook and one HTML page."""
