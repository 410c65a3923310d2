"""What was really gained."""
