"""How a release is made and proved: wheels, a fresh environment, the versions of Python, torch and NumPy."""
