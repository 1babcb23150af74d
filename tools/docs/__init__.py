"""What the documentation is made with: pages out of the program, pictures out of real runs."""
