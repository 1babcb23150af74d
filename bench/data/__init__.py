"""What reading and looking at data costs."""
