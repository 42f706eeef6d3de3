"""Reading videos and images into clips."""
