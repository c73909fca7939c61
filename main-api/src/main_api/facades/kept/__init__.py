"""The addresses and shapes of the services themselves, for the clients that have always used them."""
