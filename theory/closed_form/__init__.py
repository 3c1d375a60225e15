"""What is predicted: closed forms, each beside the recursion it solves."""
