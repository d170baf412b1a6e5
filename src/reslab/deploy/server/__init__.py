"""The service: trained networks behind HTTP, with a page to look into them."""
