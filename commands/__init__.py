"""What each command of `citybrain` does. With `citybrain.py` the only place where the four folders meet."""
