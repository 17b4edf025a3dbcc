"""Durable, versioned resources in MongoDB. The only room that knows pymongo."""
