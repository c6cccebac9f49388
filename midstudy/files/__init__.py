"""File access for all other packages: atomic writes, sealed files, locks, readable errors. Independent of midstudy."""
