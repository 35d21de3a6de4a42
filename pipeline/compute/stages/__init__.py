"""What runs on workers: one stage of one chunk at a time."""
