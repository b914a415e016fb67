"""Figure 1: its picture and its page."""
