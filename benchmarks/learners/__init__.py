"""What `learning.py` trains: pictures, networks, runs and what is told of them."""
