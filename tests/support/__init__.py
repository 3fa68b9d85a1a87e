"""Code that the tests of several folders use, without tests and models."""
