"""Evidence: what runs are compared with, audited by and studied for."""
