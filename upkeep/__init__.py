"""What keeps the project honest: pages that are made from the code, and long trials of the harness itself."""
