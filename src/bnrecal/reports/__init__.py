"""From measured cells to tables and pictures."""
