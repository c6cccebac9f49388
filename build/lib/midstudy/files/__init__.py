"""Files as everything above needs them: atomic, sealed, locked. Knows nothing of midstudy."""
