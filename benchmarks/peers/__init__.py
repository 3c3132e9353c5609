"""Other job systems, each as a small program that is run by the Python of its own virtual environment.

Nothing here may need more than Python itself and that one system.
"""
