"""What runs inside a machine of the lab. Standard library only: it starts before anything else does."""
