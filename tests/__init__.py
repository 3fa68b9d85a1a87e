"""
The tests, in folders like those of the package.

support/ has the code that several folders use, models/ the app that they
share. The modules beside this one are programs (python -m tests.walk) and
settings.
"""
