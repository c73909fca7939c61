"""What services say to one another over HTTP: the same models on both sides."""
