"""Export to other formats, verified in their own runtime."""
