"""The repository: its pages, its packages, the sandbox, its structure."""
