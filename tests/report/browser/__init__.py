"""What the HTML report does in a real browser."""
