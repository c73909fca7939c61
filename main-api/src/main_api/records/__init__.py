"""Records in MongoDB: one module for each collection, and one place that talks to the driver."""
