"""Bodies and answers of the API; bounds of what comes in stand here, in one place each."""
