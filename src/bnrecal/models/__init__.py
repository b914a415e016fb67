"""Float networks and how each wants its images."""
