"""The self-service console: pages for people over the same interactions and operations as the API. docs/console.md."""
