"""Programs for developers of citybrain; not part of the wheel."""
