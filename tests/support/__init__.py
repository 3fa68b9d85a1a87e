"""What the tests of several folders use; no test, and no model."""
