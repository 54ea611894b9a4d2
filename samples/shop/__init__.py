"""A web shop on PostgreSQL and Redis, copied while its customers buy, and what each copy is worth."""
