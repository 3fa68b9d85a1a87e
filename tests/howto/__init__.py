"""The pages of docs/howto/: their code runs with the real tools."""
