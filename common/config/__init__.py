"""What a run is, as typed data: flags from signatures, the schema, and how values follow one another."""
