"""Tables and pictures of measured cells."""
