"""The `midstudy` command."""
